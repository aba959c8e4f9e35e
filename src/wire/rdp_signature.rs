//! Signatures of `.rdp` files.

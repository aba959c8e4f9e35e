//! `.rdp` files.

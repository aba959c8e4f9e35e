//! Who is compared: names, what each of them puts between the two ends, and what
//! a reader has to know about that.

/// What is put between the two ends, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Engine {
    Ringway,
    Haproxy,
    Nginx,
    Rathole,
    Epoll,
    Floor,
    /// Nothing, with TLS: what Ringway, HAProxy and nginx are compared to.
    Direct,
    /// Nothing, without TLS: what rathole and the epoll loop are compared to.
    DirectTcp,
}

/// What the ends speak to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legs {
    /// TLS 1.3 on both.
    Tls,
    /// Plain TCP on both.
    Tcp,
    /// There are none: it measures itself.
    None,
}

impl Engine {
    /// In the order of every table.
    pub const COMPARED: [Self; 6] =
        [Self::Ringway, Self::Haproxy, Self::Nginx, Self::Rathole, Self::Epoll, Self::Floor];

    /// Key in JSON, part of file names.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Ringway => "ringway",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Rathole => "rathole",
            Self::Epoll => "epoll",
            Self::Floor => "floor",
            Self::Direct => "direct",
            Self::DirectTcp => "direct_tcp",
        }
    }

    /// For readers.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Ringway => "Ringway",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Rathole => "rathole",
            Self::Epoll => "epoll copy",
            Self::Floor => "floor",
            Self::Direct => "no relay, TLS",
            Self::DirectTcp => "no relay, TCP",
        }
    }

    pub const fn legs(self) -> Legs {
        match self {
            Self::Ringway | Self::Haproxy | Self::Nginx | Self::Direct => Legs::Tls,
            Self::Rathole | Self::Epoll | Self::DirectTcp => Legs::Tcp,
            Self::Floor => Legs::None,
        }
    }

    /// The run without a relay whose latency is taken off this one's.
    pub const fn without_relay(self) -> Option<Self> {
        match self.legs() {
            Legs::Tls => Some(Self::Direct),
            Legs::Tcp => Some(Self::DirectTcp),
            Legs::None => None,
        }
    }

    /// What it does for a session, and what it does not.
    pub const fn does(self) -> &'static str {
        match self {
            Self::Ringway => {
                "joins two inbound TLS 1.3 legs, each with its HTTP greeting and a ticket; \
                 opens and seals every byte. Measured: the gateway process."
            }
            Self::Haproxy | Self::Nginx => {
                "terminates TLS 1.3 and dials a TLS 1.3 sink without checking its certificate; \
                 opens and seals every byte; no tickets, nobody is asked. Measured: its one \
                 process or worker (nginx: and the master, which sleeps)."
            }
            Self::Rathole => {
                "takes visitors by plain TCP and passes them through a TLS tunnel that its \
                 client dialled from behind: half of the cryptography. Its client dials the \
                 sink by plain TCP. Measured: the server alone, as of Ringway the gateway alone; \
                 the client runs beside the generator and its hop is part of the latency. Its \
                 TLS cannot be set: 1.2 with ChaCha20-Poly1305."
            }
            Self::Epoll => "copies bytes between TCP connections; no TLS, no greeting.",
            Self::Floor => {
                "no relay: one AEAD open and seal (16 KiB, by the cheaper of AWS-LC and ring) plus a blocking \
                 256 KiB receive and send loop with a generator of its own."
            }
            Self::Direct | Self::DirectTcp => "the generator dials its own sink.",
        }
    }
}

//! How clients reach Ringway's gateway: what `ringway bench --leg` takes.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leg {
    Raw,
    Websocket,
    Tsgu,
    TsguHttp,
}

impl Leg {
    pub const ALL: [Self; 4] = [Self::Raw, Self::Websocket, Self::Tsgu, Self::TsguHttp];

    pub const fn key(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Websocket => "websocket",
            Self::Tsgu => "tsgu",
            Self::TsguHttp => "tsgu-http",
        }
    }

    /// For readers.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Raw => "our own connector: the bytes as they are",
            Self::Websocket => "AVD mode: WebSocket frames",
            Self::Tsgu => "RD Gateway: packets in WebSocket frames",
            Self::TsguHttp => "RD Gateway over two HTTP channels: packets, in chunks upwards",
        }
    }
}

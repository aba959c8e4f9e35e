//! The ways in which stock clients reach a session host through a gateway, as
//! their users type them.

use std::fmt;

use super::authority::{self, Authority};
use super::deployment::Deployment;
use super::stock_client::{FreeRdp, RDP_FILE, StockClient, Surroundings, azure_option};

/// A protocol, and how the token is carried where that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// AVD mode: the place over HTTPS, then a WebSocket.
    Avd,
    /// A WebSocket at an address of the user's choice.
    WebSocket,
    /// MS-TSGU over a WebSocket, the token as PAA cookie.
    RdGateway,
    /// The same over two HTTP channels.
    RdGatewayChannels,
    /// MS-TSGU over a WebSocket, the token in the HTTP header.
    RdGatewayBearer,
}

impl Way {
    pub const ALL: [Self; 5] = [
        Self::Avd,
        Self::WebSocket,
        Self::RdGateway,
        Self::RdGatewayChannels,
        Self::RdGatewayBearer,
    ];

    /// The clients that know it.
    pub fn clients(self) -> impl Iterator<Item = FreeRdp> {
        let old = matches!(self, Self::RdGateway | Self::RdGatewayChannels);
        FreeRdp::ALL.into_iter().filter(move |client| old || *client != FreeRdp::Bookworm)
    }

    /// Whether its protocol has words for the person at the client.
    pub fn shows_messages(self) -> bool {
        !matches!(self, Self::Avd | Self::WebSocket)
    }

    /// Whether that client sends something only when something came: reading
    /// from an RD Gateway, FreeRDP 3.32.2 waits inside `rdg_read_data_packet` and
    /// does nothing else meanwhile. It can work only where a screen is never
    /// still, as the demo host's, whichever gateway is between.
    pub fn waits_for_the_host(self, client: FreeRdp) -> bool {
        client == FreeRdp::Forky && !matches!(self, Self::Avd | Self::WebSocket)
    }

    /// Every way with every client that knows it.
    pub fn all_with_clients() -> Vec<(Self, FreeRdp)> {
        Self::ALL.into_iter().flat_map(|way| way.clients().map(move |with| (way, with))).collect()
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avd => "AVD mode",
            Self::WebSocket => "WebSocket URL",
            Self::RdGateway => "RD Gateway over WebSocket",
            Self::RdGatewayChannels => "RD Gateway over two channels",
            Self::RdGatewayBearer => "RD Gateway over WebSocket with bearer",
        })
    }
}

/// A gateway as a user knows it.
#[derive(Clone, Debug)]
pub struct Door<'a> {
    /// `host:port`
    pub gateway: String,
    /// Whom the user's client trusts: the gateway's CA, the session host, the
    /// authority.
    pub trusted: Vec<String>,
    pub authority: &'a Authority,
}

// Its fields say more than its address would.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What a user wants.
#[derive(Clone, Debug)]
pub struct Visit<'a> {
    pub resource: &'a str,
    pub token: &'a str,
    /// User and password on the session host.
    pub account: (&'a str, &'a str),
    /// As the feed gave it; otherwise as somebody would write it.
    pub rdp_file: Option<Vec<u8>>,
    /// What else is said to the client.
    pub further: &'a [&'a str],
}

impl<'a> Door<'a> {
    pub fn new(ringway: &Deployment, host_certificate: String, authority: &'a Authority) -> Self {
        let trusted = vec![ringway.ca_pem(), host_certificate, authority.ca_pem()];
        Self { gateway: ringway.entry(), trusted, authority }
    }

    /// Starts a client.
    pub fn enter(&self, way: Way, version: FreeRdp, visit: &Visit<'_>) -> StockClient {
        let around = self.around(way, visit);
        let mut arguments = self.arguments(way, version, visit);
        let (user, password) = visit.account;
        arguments.extend([
            format!("/u:{user}"),
            format!("/p:{password}"),
            "/size:1024x700".to_owned(),
        ]);
        arguments.extend(visit.further.iter().map(|&more| more.to_owned()));
        StockClient::start(version, &around, &arguments)
    }

    /// Starts a client in AVD mode that is given no password: where it asks for
    /// a sign-in to the session host, it gets the address that a browser would
    /// end at.
    pub fn enter_by_token(&self, version: FreeRdp, visit: &Visit<'_>, code: &str) -> StockClient {
        let terminal = authority::sign_in_address(code);
        let around = Surroundings { terminal, ..self.around(Way::Avd, visit) };
        let mut arguments = self.arguments(Way::Avd, version, visit);
        arguments.push("/size:1024x700".to_owned());
        StockClient::start(version, &around, &arguments)
    }

    fn around(&self, way: Way, visit: &Visit<'_>) -> Surroundings {
        Surroundings {
            trusted: self.trusted.clone(),
            names: vec![(authority::NAME.to_owned(), self.authority.address)],
            rdp_file: (way == Way::Avd).then(|| {
                visit.rdp_file.clone().unwrap_or_else(|| self.rdp_file(visit.resource).into())
            }),
            terminal: String::new(),
        }
    }

    fn arguments(&self, way: Way, version: FreeRdp, visit: &Visit<'_>) -> Vec<String> {
        let (gateway, Visit { resource, token, .. }) = (&self.gateway, visit);
        let target = format!("/v:{resource}");
        match (way, version) {
            (Way::Avd, version) => vec![
                RDP_FILE.to_owned(),
                format!("/gateway:type:arm,bearer:{token}"),
                azure_option(version, authority::NAME),
            ],
            (Way::WebSocket, _) => {
                let url = format!("wss://{gateway}/wst/{resource}");
                vec![target, format!("/gateway:url:{url},bearer:{token}")]
            }
            (Way::RdGateway | Way::RdGatewayChannels, FreeRdp::Bookworm) => {
                let kind = if way == Way::RdGateway { "http" } else { "http,no-websockets" };
                let token = format!("/gat:{token}");
                vec![target, format!("/g:{gateway}"), token, format!("/gt:{kind}")]
            }
            (Way::RdGateway, _) => {
                vec![target, format!("/gateway:g:{gateway},type:http,access-token:{token}")]
            }
            (Way::RdGatewayChannels, _) => {
                let kind = "type:http,no-websockets";
                vec![target, format!("/gateway:g:{gateway},{kind},access-token:{token}")]
            }
            (Way::RdGatewayBearer, _) => {
                vec![target, format!("/gateway:g:{gateway},type:http,bearer:{token}")]
            }
        }
    }

    /// What AVD mode needs to know, and nothing else.
    fn rdp_file(&self, resource: &str) -> String {
        let gateway = &self.gateway;
        format!(
            "full address:s:{resource}\r\ngatewayhostname:s:{gateway}\r\ngatewayusagemethod:i:1\r\n\
             resourceprovider:s:arm\r\nloadbalanceinfo:s:ringway:ringway/{resource}\r\n\
             remoteapplicationprogram:s:||{resource}\r\nremoteapplicationmode:i:0\r\n\
             enablerdsaadauth:i:1\r\n"
        )
    }
}

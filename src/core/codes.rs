//! Every way in which Ringway says no: one closed list, one stable code each.
//!
//! A code says whose side the fault is on, at which of the twelve steps it
//! shows, whether trying again can help, and one sentence that the person in
//! front of the client can act on. `README.md` ("Codes") lists the same table;
//! a test compares the two.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who has to change something for the request to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Client,
    Gateway,
    Broker,
    Host,
    Identity,
}

/// Whether the same request can succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same request fails again.
    Never,
    /// Ask the entry gateway again for a new placement, at once.
    Now,
    /// Ask again after a pause.
    Later,
}

/// What a code stands for.
#[derive(Clone, Copy, Debug)]
pub struct CodeFacts {
    pub code: Code,
    pub number: u16,
    pub name: &'static str,
    pub side: Side,
    /// Step of the connection (1 to 12) at which it shows; 0 for machine
    /// management (enrolment, channels).
    pub step: u8,
    pub retry: Retry,
    pub http_status: u16,
    pub advice: &'static str,
}

macro_rules! codes {
    ($($variant:ident $number:literal $name:literal $side:ident $step:literal $retry:ident $status:literal $advice:literal;)+) => {
        /// A stable refusal code. Numbers are grouped: 1xxx request, 2xxx
        /// ticket, 3xxx gateway, 4xxx broker, 5xxx host, 6xxx identity, 9xxx
        /// our own faults. A number, once released, keeps its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = $advice] #[serde(rename = $name)] $variant,)+
        }

        impl Code {
            /// All codes, in the order of their numbers.
            pub const ALL: &'static [CodeFacts] = &[
                $(CodeFacts {
                    code: Code::$variant,
                    number: $number,
                    name: $name,
                    side: Side::$side,
                    step: $step,
                    retry: Retry::$retry,
                    http_status: $status,
                    advice: $advice,
                },)+
            ];

            #[must_use]
            pub const fn facts(self) -> CodeFacts {
                match self {
                    $(Code::$variant => CodeFacts {
                        code: Code::$variant,
                        number: $number,
                        name: $name,
                        side: Side::$side,
                        step: $step,
                        retry: Retry::$retry,
                        http_status: $status,
                        advice: $advice,
                    },)+
                }
            }
        }
    };
}

codes! {
    RequestMalformed 1001 "request_malformed" Client 7 Never 400 "The request was not understood; use a client that speaks this protocol.";
    RequestTooLarge 1002 "request_too_large" Client 7 Never 431 "The request is larger than the gateway accepts.";
    RequestTimeout 1003 "request_timeout" Client 7 Now 408 "The request did not arrive in time; check the network and try again.";
    NotFound 1004 "not_found" Client 7 Never 404 "There is nothing at this address; check the gateway address in the .rdp file.";
    MethodNotAllowed 1005 "method_not_allowed" Client 7 Never 405 "This address does not accept that method.";
    UpgradeRequired 1006 "upgrade_required" Client 7 Never 426 "This address carries sessions only, and not in this way; connect with an RDP client that can, ringway connect or an agent.";
    RdpFileUntrusted 1007 "rdp_file_untrusted" Client 6 Never 403 "The .rdp file's signature is missing, wrong or not trusted; fetch the file again.";
    ChannelUnpaired 1008 "channel_unpaired" Client 7 Now 409 "The two connections of the RD Gateway client did not find each other; try again.";

    TicketMissing 2001 "ticket_missing" Client 8 Never 401 "The connection brought no ticket; start it from the .rdp file.";
    TicketMalformed 2002 "ticket_malformed" Client 8 Never 401 "The ticket cannot be read; start again from the .rdp file.";
    TicketUnknownKey 2003 "ticket_unknown_key" Client 8 Now 401 "The ticket was signed by a key that this gateway does not know; start again from the .rdp file.";
    TicketBadSignature 2004 "ticket_bad_signature" Client 8 Never 401 "The ticket's signature is wrong; start again from the .rdp file.";
    TicketExpired 2005 "ticket_expired" Client 8 Now 401 "The ticket is too old; start again from the .rdp file and check this machine's clock.";
    TicketNotYetValid 2006 "ticket_not_yet_valid" Client 8 Now 401 "The ticket is from the future; check the clocks of gateway and broker.";
    TicketUsed 2007 "ticket_used" Client 8 Now 409 "The ticket was used before; start again from the .rdp file.";
    TicketWrongGateway 2008 "ticket_wrong_gateway" Client 8 Now 403 "The ticket is for another gateway; start again from the .rdp file.";
    TicketWrongRole 2009 "ticket_wrong_role" Client 8 Never 403 "The ticket is for the other end of the session.";
    SessionRevoked 2010 "session_revoked" Client 8 Never 403 "An administrator ended this session; start again from the .rdp file if you may.";

    GatewayDraining 3001 "gateway_draining" Gateway 7 Now 503 "This gateway is being taken out of service; try again and another one will answer.";
    GatewayFull 3002 "gateway_full" Gateway 7 Later 503 "This gateway carries as many sessions as it may; try again in a moment.";
    NoGateway 3003 "no_gateway" Gateway 7 Later 503 "No gateway has room; try again in a moment or tell the operator.";
    HostDidNotArrive 3004 "host_did_not_arrive" Host 10 Now 504 "The session host did not reach the gateway in time; try again.";
    ClientDidNotArrive 3005 "client_did_not_arrive" Client 11 Never 504 "The client left before the session host arrived.";
    TooManyWaiting 3006 "too_many_waiting" Gateway 8 Later 503 "Too many connections are waiting at this gateway; try again in a moment.";
    BrokerUnreachable 3007 "broker_unreachable" Broker 8 Later 503 "The gateway cannot reach the broker; try again in a moment or tell the operator.";
    SessionUnknown 3008 "session_unknown" Host 10 Never 404 "Nobody waits for this session at this gateway any more.";
    TooManyRequests 3009 "too_many_requests" Gateway 7 Later 429 "Too many requests on one connection.";

    ResourceUnknown 4001 "resource_unknown" Client 8 Never 404 "This desktop or application is not published any more; fetch the .rdp file again.";
    NotAssigned 4002 "not_assigned" Client 8 Never 403 "This desktop or application is not assigned to you; ask the operator.";
    PoolFull 4003 "pool_full" Host 9 Later 503 "All session hosts are full; try again later or tell the operator.";
    NoHostAvailable 4004 "no_host_available" Host 9 Later 503 "No session host is connected; tell the operator.";
    HostDraining 4005 "host_draining" Host 9 Later 503 "The session hosts are being taken out of service; try again later.";
    ReservationExpired 4006 "reservation_expired" Client 8 Now 410 "The place that was reserved is no longer held; start again from the .rdp file.";
    BrokerOverloaded 4007 "broker_overloaded" Broker 8 Later 503 "The broker has too much to do; try again in a moment.";
    TooManyPlaces 4008 "too_many_places" Client 8 Later 429 "You are opening as many sessions at once as you may; wait until one is open and try again.";
    HostUnhealthy 4009 "host_unhealthy" Host 9 Later 503 "No session host is fit to take anybody; try again later or tell the operator.";
    HostStarting 4010 "host_starting" Host 9 Later 503 "A session host is being started for you; try again in a moment.";
    NoHostAssigned 4011 "no_host_assigned" Client 9 Never 403 "No machine of your own is assigned to you yet; ask the operator.";
    NoFreeHost 4012 "no_free_host" Host 9 Later 503 "Every machine here belongs to somebody already; tell the operator.";
    AssignedHostAway 4013 "assigned_host_away" Host 9 Later 503 "Your own machine is not connected; switch it on or tell the operator.";
    EnrolTokenInvalid 4101 "enrol_token_invalid" Client 0 Never 403 "The enrolment token is not known; create one with ringway token create.";
    EnrolTokenExpired 4102 "enrol_token_expired" Client 0 Never 403 "The enrolment token has expired; create another with ringway token create.";
    EnrolTokenUsedUp 4103 "enrol_token_used_up" Client 0 Never 403 "The enrolment token was used as often as it may; create another with ringway token create.";
    EnrolRequestInvalid 4104 "enrol_request_invalid" Client 0 Never 400 "The enrolment request is not valid.";
    MachineUnknown 4105 "machine_unknown" Client 0 Never 403 "This machine is not enrolled here; run ringway enroll.";
    ChannelReplaced 4106 "channel_replaced" Client 0 Never 409 "The same machine opened a newer channel; two machines may share one key.";
    ProtocolVersion 4107 "protocol_version" Client 0 Never 426 "This version does not understand the other; upgrade the older one.";

    AdminNotAllowed 4201 "admin_not_allowed" Client 0 Never 403 "This account may not administer; use sudo, or add it to admin_uids or admin_gids.";
    AdminTokenUnknown 4202 "admin_token_unknown" Client 0 Never 401 "The admin token is missing or not known here; check RINGWAY_ADMIN_TOKEN.";
    AdminTokenGuessing 4203 "admin_token_guessing" Client 0 Later 429 "Too many wrong admin tokens came from this address; wait a minute and check the token.";

    HostNoAnswer 5001 "host_no_answer" Host 9 Now 504 "The session host did not answer the order in time; try again.";
    HostRefused 5002 "host_refused" Host 9 Later 502 "The session host's RDP server does not accept connections; tell the operator.";
    HostGone 5003 "host_gone" Host 10 Now 502 "The session host lost its connection to the broker; try again.";
    HostDialFailed 5004 "host_dial_failed" Host 10 Now 502 "The session host could not reach the gateway; try again or tell the operator.";
    HostBusy 5005 "host_busy" Host 9 Later 503 "The session host carries as many sessions as it may; try again later.";
    LogonNotAllowed 5006 "logon_not_allowed" Host 12 Never 403 "You have no account on this session host; ask the operator.";

    TokenMissing 6001 "token_missing" Identity 4 Never 401 "Sign in first.";
    TokenMalformed 6002 "token_malformed" Identity 4 Never 401 "The access token cannot be read; sign in again.";
    TokenUnknownKey 6003 "token_unknown_key" Identity 4 Never 401 "The access token was signed by an unknown key; sign in again.";
    TokenBadSignature 6004 "token_bad_signature" Identity 4 Never 401 "The access token's signature is wrong; sign in again.";
    TokenExpired 6005 "token_expired" Identity 4 Never 401 "The sign-in has expired; sign in again.";
    TokenNotYetValid 6006 "token_not_yet_valid" Identity 4 Later 401 "The access token is from the future; check the clocks.";
    TokenWrongIssuer 6007 "token_wrong_issuer" Identity 4 Never 401 "The access token is from another identity provider.";
    TokenWrongAudience 6008 "token_wrong_audience" Identity 4 Never 401 "The access token is for another service.";
    TokenWrongAlgorithm 6009 "token_wrong_algorithm" Identity 4 Never 401 "The access token is signed with an algorithm that is not allowed.";
    IdentityUnavailable 6010 "identity_unavailable" Identity 4 Later 503 "The identity provider cannot be reached; try again in a moment.";
    AuthenticationTooWeak 6011 "authentication_too_weak" Identity 8 Never 403 "This desktop or application asks for a stronger sign-in, such as one with a second factor; sign in again that way.";
    TokenTooLong 6012 "token_too_long" Identity 4 Never 401 "The access token is longer than 16 KiB; ask the operator to have the identity provider put fewer groups into it.";
    TokenGroupsOverLimit 6013 "token_groups_over_limit" Identity 4 Never 401 "The access token lists more groups, or longer ones, than are looked at, or leaves them out for their number; ask the operator to have only this service's groups put into it.";
    TokenWrongNonce 6014 "token_wrong_nonce" Identity 2 Never 401 "The sign-in answers another request than this one; start it again.";
    TokenWithoutUser 6015 "token_without_user" Identity 4 Never 401 "The access token does not name the user in the claim that the operator chose; tell the operator.";
    SignInNotCompleted 6016 "sign_in_not_completed" Identity 2 Never 400 "The sign-in was not completed, or was begun elsewhere; start it again.";
    TokenNotBound 6017 "token_not_bound" Identity 12 Never 401 "The access token is not bound to the key that the client signs with; sign in again.";
    LogonMalformed 6018 "logon_malformed" Client 12 Never 400 "The client's logon by token cannot be read; use a client that speaks RDSAAD.";
    LogonBadSignature 6019 "logon_bad_signature" Client 12 Never 401 "The signature of the logon by token is wrong; try again.";
    LogonStale 6020 "logon_stale" Client 12 Now 401 "The logon by token is old or from the future; check this machine's clock and try again.";
    LogonWrongNonce 6021 "logon_wrong_nonce" Client 12 Now 401 "The logon by token was not made for this connection; try again.";
    LogonWrongHost 6022 "logon_wrong_host" Client 12 Never 403 "The logon by token is for another session host; start again from the .rdp file.";
    TokenOfOtherUser 6023 "token_of_other_user" Identity 11 Never 403 "The access token is not of the user whose session this is; sign in as that user.";

    Internal 9001 "internal" Broker 0 Later 500 "Something went wrong on our side; the log has the details.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.facts().name)
    }
}

/// A code with what is known about this one case. This is what travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {}{}", code.facts().advice, detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
pub struct Refusal {
    pub code: Code,
    /// What happened, for an operator; never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Earliest useful moment for another try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self { code, detail: None, retry_after_ms: None }
    }

    #[must_use]
    pub fn with_detail(code: Code, detail: impl fmt::Display) -> Self {
        Self { code, detail: Some(detail.to_string()), retry_after_ms: None }
    }
}

/// How much of another machine's words is kept and logged.
const DETAIL_CHARS_MAX: usize = 300;

/// What another machine said, fit for logs and people: not longer than a few
/// lines, nothing that a terminal would obey.
#[must_use]
pub fn curb(text: &str) -> String {
    let chars = text.chars().take(DETAIL_CHARS_MAX);
    chars.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Refusal {
    /// The same with another machine's detail [curbed](curb).
    #[must_use]
    pub fn curbed(self) -> Self {
        Self { detail: self.detail.as_deref().map(curb), ..self }
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_ordered() {
        let numbers: Vec<_> = Code::ALL.iter().map(|f| f.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        let names: HashSet<_> = Code::ALL.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn the_words_of_others_are_curbed() {
        let refusal = Refusal::with_detail(Code::HostRefused, "a\x1b[2Jb\n".repeat(1_000));
        let detail = refusal.curbed().detail.unwrap();
        assert_eq!(detail.chars().count(), 300);
        assert!(detail.starts_with("a [2Jb a") && !detail.contains(char::is_control));
    }

    #[test]
    fn facts_agree_with_the_table_and_the_wire_name() {
        for facts in Code::ALL {
            assert_eq!(facts.code.facts().number, facts.number);
            let wire = serde_json::to_string(&facts.code).unwrap();
            assert_eq!(wire, format!("\"{}\"", facts.name));
            assert!(facts.step <= 12 && facts.advice.ends_with('.'), "{facts:?}");
        }
    }
}

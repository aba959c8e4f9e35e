//! `POST /enroll`: a token for a certificate.
//!
//! A token is `rwe_<32 hex digits>_<32 hex digits>`: a secret, of which only
//! the hash is stored, and the pin of the broker's CA, by which the machine
//! knows that it talks to the right broker before it sends the secret.

use std::sync::Arc;

use aws_lc_rs::digest;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use rustls::pki_types::ServerName;

use super::ca::{machine_identity, to_pem};
use super::http::Refused;
use super::orchestrate::Command;
use super::store::{self, Store, StoreError};
use super::{Shared, random_bytes};
use crate::channel::enroll::EnrolToken;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{GatewayId, HostId, PoolId};
use crate::tls::pinned_ca::CaPin;
use crate::wire::enroll::{EnrolRequest, EnrolResponse, MachineRole};

/// Names of one gateway's certificate.
const SERVER_NAMES_MAX: usize = 16;
/// Of a name that is none, in the answer.
const NAME_CHARS_SHOWN: usize = 64;
/// A machine's request is two keys long; nothing needs more.
const CSR_BYTES_MAX: usize = 16 * 1024;

/// A token that an operator asks for.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub role: MachineRole,
    /// Of session hosts.
    pub pool: Option<PoolId>,
    pub ttl_ms: u64,
    pub uses: u32,
    /// Names that gateways of this token may serve under.
    pub server_names: Vec<String>,
}

/// Makes a token and stores its hash.
///
/// # Errors
/// When the system has no randomness or the database fails.
pub async fn create_token(
    store: &Store,
    ca_pin: CaPin,
    new: NewToken,
    now: UnixMillis,
) -> Result<EnrolToken, StoreError> {
    let secret = random_bytes().map_err(|code| StoreError::Refused(code.into()))?;
    let token = EnrolToken::new(secret, ca_pin);
    let stored = store::EnrolToken {
        hash: hash(&token),
        role: new.role,
        pool: new.pool,
        expires_at: now.plus_ms(new.ttl_ms),
        uses_left: new.uses,
        server_names: new.server_names,
    };
    store.add_enrol_token(stored, now).await?;
    Ok(token)
}

/// Whether these can stand in a gateway's certificate.
///
/// # Errors
/// Why not.
pub fn check_server_names(names: &[String]) -> Result<(), String> {
    if names.len() > SERVER_NAMES_MAX {
        return Err(format!("more than {SERVER_NAMES_MAX} server names"));
    }
    match names.iter().find(|name| ServerName::try_from(name.as_str()).is_err()) {
        Some(name) => {
            let name: String = name.chars().take(NAME_CHARS_SHOWN).collect();
            Err(format!("{name:?} is no DNS name or address"))
        }
        None => Ok(()),
    }
}

/// The handler.
pub async fn handle(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<EnrolRequest>, JsonRejection>,
) -> Result<Json<EnrolResponse>, Refused> {
    let Json(request) = request.map_err(|rejection| {
        Refusal::with_detail(Code::EnrolRequestInvalid, rejection.body_text())
    })?;
    let answer = enrol(&shared, request.token.expose(), &request, UnixMillis::now()).await;
    // A stranger's text does not get into the log; a name is short and plain.
    let name = request.name.parse::<HostId>().ok();
    let name = name.as_ref().map(HostId::as_str);
    let role = request.role.as_str();
    match &answer {
        Ok(_) => tracing::info!(name, role, "Enrolled a machine"),
        Err(refusal) => tracing::warn!(name, role, %refusal, "Refused an enrolment"),
    }
    Ok(Json(answer?))
}

async fn enrol(
    shared: &Shared,
    token: &str,
    request: &EnrolRequest,
    now: UnixMillis,
) -> Result<EnrolResponse, Refusal> {
    check_request(request)?;
    let token: EnrolToken = token.parse().map_err(|_| Code::EnrolTokenInvalid)?;
    let hash = hash(&token);
    // Signing is work: not for those who have no token.
    let stored =
        shared.store.check_enrol_token(hash.clone(), request.role, now).await.map_err(refusal)?;
    let server_names = allowed_names(
        &request.server_names,
        stored.server_names,
        shared.config().allow_any_server_name,
    )?;
    let certificate = shared
        .authority
        .issue_machine(request.role, &request.name, &request.csr_pem, &server_names, now)
        .map_err(|error| Refusal::with_detail(Code::EnrolRequestInvalid, error))?;
    let identity = machine_identity(&certificate)
        .ok()
        .flatten()
        .ok_or_else(|| Refusal::new(Code::Internal))?;
    let pool = shared
        .store
        .enrol(hash, request.role, request.name.clone(), identity.key_sha256, server_names, now)
        .await
        .map_err(refusal)?;
    // Whoever holds the older key is somebody else from now on.
    let why = Refusal::with_detail(Code::MachineUnknown, "enrolled again, with another key");
    let (role, name) = (request.role, request.name.clone());
    shared.core.send(Command::Expel { role, name, for_good: false, why }).await;
    if let (Some(pool), Ok(host)) = (pool.clone(), request.name.parse()) {
        shared.core.send(Command::HostEnrolled { host, pool }).await;
    }
    let ca_pem = shared.authority.pem().to_owned();
    Ok(EnrolResponse {
        name: request.name.clone(),
        pool,
        certificate_pem: format!("{}{ca_pem}", to_pem(&certificate)),
        ca_pem,
    })
}

fn check_request(request: &EnrolRequest) -> Result<(), Refusal> {
    let invalid = |detail: String| Refusal::with_detail(Code::EnrolRequestInvalid, detail);
    match request.role {
        MachineRole::Agent => request.name.parse::<HostId>().map(drop),
        MachineRole::Gateway => request.name.parse::<GatewayId>().map(drop),
    }
    .map_err(|error| invalid(error.to_string()))?;
    check_server_names(&request.server_names).map_err(invalid)?;
    if request.csr_pem.len() > CSR_BYTES_MAX {
        return Err(invalid(format!("the signing request has more than {CSR_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The names that go into a gateway's certificate. Clients believe whoever
/// has a certificate for a name, the broker's own among them, so a machine does
/// not choose its names: the operator bound them to the token, or trusts every
/// holder of a token with any name.
fn allowed_names(
    asked: &[String],
    bound: Vec<String>,
    allow_any: bool,
) -> Result<Vec<String>, Refusal> {
    if asked.is_empty() {
        return Ok(bound);
    }
    let is_bound = |name: &String| bound.iter().any(|bound| bound.eq_ignore_ascii_case(name));
    match asked.iter().find(|name| !is_bound(name)) {
        Some(name) if !allow_any => {
            let detail = format!(
                "the token is not for the server name {name}; create one with: ringway token \
                 create --role gateway --server-name {name}"
            );
            Err(Refusal::with_detail(Code::EnrolRequestInvalid, detail))
        }
        _ => Ok(asked.to_vec()),
    }
}

/// The hash under which the secret part is stored.
fn hash(token: &EnrolToken) -> Vec<u8> {
    digest::digest(&digest::SHA256, token.secret().as_bytes()).as_ref().to_vec()
}

fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::Refused(refusal) => refusal,
        error => {
            tracing::error!(%error, "The database failed");
            Refusal::new(Code::Internal)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ca::Authority;
    use super::super::testing::TemporaryDir;
    use super::*;
    use crate::config::state_dir::StateDir;

    fn new_token(role: MachineRole, pool: Option<PoolId>, uses: u32) -> NewToken {
        NewToken { role, pool, ttl_ms: 1_000, uses, server_names: vec![] }
    }

    async fn stored_token(store: &Store, new: NewToken, now: UnixMillis) -> Vec<u8> {
        let pin = CaPin::of(&vec![0].into());
        hash(&create_token(store, pin, new, now).await.unwrap())
    }

    async fn enrol(
        store: &Store,
        token: &[u8],
        role: MachineRole,
        name: &str,
        now: UnixMillis,
    ) -> Result<Option<PoolId>, Code> {
        match store.enrol(token.to_vec(), role, name.into(), vec![7], vec![], now).await {
            Ok(pool) => Ok(pool),
            Err(StoreError::Refused(refusal)) => Err(refusal.code),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_gateway_gets_no_name_that_the_operator_did_not_give() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let allowed = |asked: &[&str], bound: &[&str], allow_any| {
            allowed_names(&names(asked), names(bound), allow_any).map_err(|refusal| refusal.code)
        };
        let refused = Err(Code::EnrolRequestInvalid);
        assert_eq!(allowed(&[], &[], false), Ok(vec![]));
        assert_eq!(allowed(&["broker.example"], &[], false), refused);
        assert_eq!(allowed(&["broker.example"], &[], true), Ok(names(&["broker.example"])));
        let bound = ["gw.example", "10.0.0.1"];
        assert_eq!(allowed(&[], &bound, false), Ok(names(&bound)));
        assert_eq!(allowed(&["GW.example"], &bound, false), Ok(names(&["GW.example"])));
        assert_eq!(allowed(&["gw.example", "broker.example"], &bound, false), refused);
        assert!(check_server_names(&names(&["a b"])).is_err());
        assert!(check_server_names(&names(&bound)).is_ok());
        assert!(check_server_names(&vec!["a".into(); 17]).is_err());
    }

    #[tokio::test]
    async fn a_token_neither_moves_a_machine_nor_brings_back_a_revoked_one() {
        let dir = TemporaryDir::new();
        let store = Store::open(&dir.path().join("db")).unwrap();
        let now = UnixMillis(5);
        let (agent, name) = (MachineRole::Agent, "host-1");
        let pool = |name: &str| Some(name.parse::<PoolId>().unwrap());
        let office = stored_token(&store, new_token(agent, pool("office"), 9), now).await;
        let lab = stored_token(&store, new_token(agent, pool("lab"), 9), now).await;
        assert_eq!(enrol(&store, &office, agent, name, now).await, Ok(pool("office")));
        assert_eq!(enrol(&store, &lab, agent, name, now).await, Err(Code::EnrolRequestInvalid));
        assert_eq!(enrol(&store, &office, agent, name, now).await, Ok(pool("office")));
        assert!(!store.forget(agent, name.into(), now).await.unwrap(), "only the revoked");
        assert!(store.revoke(agent, name.into(), now).await.unwrap());
        assert_eq!(enrol(&store, &office, agent, name, now).await, Err(Code::MachineUnknown));
        assert!(store.machine(agent, name.into()).await.unwrap().unwrap().revoked);
        // A refused attempt does not cost a use.
        assert_eq!(store.enrol_tokens(now).await.unwrap()[0].uses_left, 7);
        assert!(store.forget(agent, name.into(), now).await.unwrap());
        assert_eq!(enrol(&store, &lab, agent, name, now).await, Ok(pool("lab")));
    }

    #[tokio::test]
    async fn a_token_works_as_often_and_as_long_as_it_says() {
        let dir = TemporaryDir::new();
        let store = Store::open(&dir.path().join("db")).unwrap();
        let pool: PoolId = "office".parse().unwrap();
        let now = UnixMillis(1_000_000);
        let new = new_token(MachineRole::Agent, Some(pool.clone()), 2);
        let token = stored_token(&store, new, now).await;
        let enrol = async |role, name: &str, now| enrol(&store, &token, role, name, now).await;
        let agent = MachineRole::Agent;
        assert_eq!(enrol(agent, "a", now.plus_ms(1_000)).await, Err(Code::EnrolTokenExpired));
        assert_eq!(enrol(MachineRole::Gateway, "a", now).await, Err(Code::EnrolTokenInvalid));
        assert_eq!(enrol(agent, "a", now).await, Ok(Some(pool.clone())));
        assert_eq!(enrol(agent, "a", now).await, Ok(Some(pool)), "the same machine, again");
        assert_eq!(enrol(agent, "b", now).await, Err(Code::EnrolTokenUsedUp));
        assert!(store.enrol_tokens(now).await.unwrap().is_empty());
        assert_eq!(store.machines().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn revoked_and_drained_survive_a_restart() {
        let dir = TemporaryDir::new();
        let path = dir.path().join("db");
        let now = UnixMillis(5);
        {
            let store = Store::open(&path).unwrap();
            let role = MachineRole::Gateway;
            let token = stored_token(&store, new_token(role, None, 1), now).await;
            assert_eq!(enrol(&store, &token, role, "gw", now).await, Ok(None));
            assert!(store.revoke(role, "gw".into(), now).await.unwrap());
            assert!(!store.revoke(role, "other".into(), now).await.unwrap());
            store.set_drained("host-1".parse().unwrap(), true, now).await.unwrap();
            store.set_drained("host-2".parse().unwrap(), true, now).await.unwrap();
            store.set_drained("host-2".parse().unwrap(), false, now).await.unwrap();
        }
        let store = Store::open(&path).unwrap();
        let gateway = store.machine(MachineRole::Gateway, "gw".into()).await.unwrap().unwrap();
        assert!(gateway.revoked);
        assert_eq!(gateway.key_sha256, [7]);
        assert_eq!(store.drained().await.unwrap(), ["host-1".parse().unwrap()]);
    }

    #[test]
    fn the_ca_survives_a_restart_and_names_machines() {
        let dir = TemporaryDir::new();
        let state = StateDir::open(dir.path()).unwrap();
        let now = UnixMillis::now();
        let first = Authority::open(&state, "test", now).unwrap();
        let again = Authority::open(&state, "test", now).unwrap();
        assert_eq!(first.pin(), again.pin());

        let key = rcgen::KeyPair::generate().unwrap();
        // What the machine asks for beyond its key must not count.
        let mut asked = rcgen::CertificateParams::new(vec!["evil.example".into()]).unwrap();
        asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let anothers = "ringway:agent/host-9".try_into().unwrap();
        asked.subject_alt_names.push(rcgen::SanType::URI(anothers));
        let csr = asked.serialize_request(&key).unwrap().pem().unwrap();
        let issued = again.issue_machine(MachineRole::Agent, "host-1", &csr, &[], now).unwrap();
        let identity = machine_identity(&issued).unwrap().unwrap();
        assert_eq!((identity.role, identity.name.as_str()), (MachineRole::Agent, "host-1"));
        let text = String::from_utf8_lossy(&issued).into_owned();
        assert!(!text.contains("evil.example") && !text.contains("host-9"));

        let pair = again.signing_pair(&state, now).unwrap();
        assert_eq!(again.signing_pair(&state, now).unwrap().certificate_pem, pair.certificate_pem);
        assert!(pair.key_pem.contains("PRIVATE KEY"));
        assert!(again.issue_machine(MachineRole::Agent, "x", "nonsense", &[], now).is_err());
    }

    #[test]
    fn a_key_of_another_ca_is_noticed() {
        let (a, b) = (TemporaryDir::new(), TemporaryDir::new());
        let now = UnixMillis::now();
        let (state_a, state_b) =
            (StateDir::open(a.path()).unwrap(), StateDir::open(b.path()).unwrap());
        Authority::open(&state_a, "a", now).unwrap();
        Authority::open(&state_b, "b", now).unwrap();
        std::fs::copy(state_a.file("ca.key"), state_b.file("ca.key")).unwrap();
        let error = Authority::open(&state_b, "b", now).unwrap_err().to_string();
        assert!(error.contains("ca.key"), "{error}");
    }
}

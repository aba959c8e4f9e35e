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
use zeroize::Zeroizing;

use super::Shared;
use super::ca::{machine_identity, to_pem};
use super::http::Refused;
use super::store::{EnrolToken, Store, StoreError};
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{GatewayId, HostId, PoolId};
use crate::wire::enroll::{EnrolRequest, EnrolResponse, MachineRole};

const PREFIX: &str = "rwe_";
const SECRET_DIGITS: usize = 32;
/// Names of one gateway's certificate.
const SERVER_NAMES_MAX: usize = 16;
/// A machine's request is two keys long; nothing needs more.
const CSR_BYTES_MAX: usize = 16 * 1024;

/// Makes a token and stores its hash.
///
/// # Errors
/// When the system has no randomness or the database fails.
pub async fn create_token(
    store: &Store,
    ca_pin: &str,
    role: MachineRole,
    pool: Option<PoolId>,
    ttl_ms: u64,
    uses: u32,
    now: UnixMillis,
) -> Result<Zeroizing<String>, StoreError> {
    let secret =
        Zeroizing::new(hex::encode(super::random_bytes::<16>().map_err(StoreError::Refused)?));
    let token = EnrolToken {
        hash: hash(&secret),
        role,
        pool,
        expires_at: now.plus_ms(ttl_ms),
        uses_left: uses,
    };
    store.add_enrol_token(token, now).await?;
    Ok(Zeroizing::new(format!("{PREFIX}{}_{ca_pin}", secret.as_str())))
}

/// The handler.
pub async fn handle(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<EnrolRequest>, JsonRejection>,
) -> Result<Json<EnrolResponse>, Refused> {
    let Json(mut request) = request.map_err(|rejection| {
        Refusal::with_detail(Code::EnrolRequestInvalid, rejection.body_text())
    })?;
    let token = Zeroizing::new(std::mem::take(&mut request.token));
    let answer = enrol(&shared, &token, &request, UnixMillis::now()).await;
    match &answer {
        Ok(_) => {
            tracing::info!(name = %request.name, role = request.role.as_str(), "Enrolled a machine");
        }
        Err(refusal) => {
            tracing::warn!(name = ?request.name, role = request.role.as_str(), %refusal, "Refused an enrolment");
        }
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
    let hash = token_hash(token).ok_or(Code::EnrolTokenInvalid)?;
    // Signing is work: not for those who have no token.
    shared.store.check_enrol_token(hash.clone(), request.role, now).await.map_err(refusal)?;
    let certificate = shared
        .authority
        .issue_machine(request.role, &request.name, &request.csr_pem, &request.server_names, now)
        .map_err(|error| Refusal::with_detail(Code::EnrolRequestInvalid, error))?;
    let identity = machine_identity(&certificate)
        .ok()
        .flatten()
        .ok_or_else(|| Refusal::new(Code::Internal))?;
    let pool = shared
        .store
        .enrol(hash, request.role, request.name.clone(), identity.key_sha256, now)
        .await
        .map_err(refusal)?;
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
    if request.server_names.len() > SERVER_NAMES_MAX {
        return Err(invalid(format!("more than {SERVER_NAMES_MAX} server names")));
    }
    if request.csr_pem.len() > CSR_BYTES_MAX {
        return Err(invalid(format!("the signing request has more than {CSR_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The hash under which the secret part is stored; `None` when the text is no
/// token.
fn token_hash(token: &str) -> Option<Vec<u8>> {
    let (secret, _pin) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let valid = secret.len() == SECRET_DIGITS && secret.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| hash(secret))
}

fn hash(secret: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, secret.as_bytes()).as_ref().to_vec()
}

fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::Refused(code) => Refusal::new(code),
        error => {
            tracing::error!(%error, "The database failed");
            Refusal::new(Code::Internal)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ca::Authority;
    use super::super::state_dir::StateDir;
    use super::super::testing::TemporaryDir;
    use super::*;

    #[test]
    fn only_tokens_have_a_hash() {
        let secret = "0123456789abcdef0123456789abcdef";
        assert_eq!(token_hash(&format!("rwe_{secret}_00")), Some(hash(secret)));
        for bad in ["", "rwe_", "rwe_12_34", &format!("rwx_{secret}_00"), &format!("rwe_{secret}")]
        {
            assert_eq!(token_hash(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_token_works_as_often_and_as_long_as_it_says() {
        let dir = TemporaryDir::new();
        let store = Store::open(&dir.path().join("db")).unwrap();
        let pool: PoolId = "office".parse().unwrap();
        let now = UnixMillis(1_000_000);
        let token =
            create_token(&store, "00", MachineRole::Agent, Some(pool.clone()), 1_000, 2, now);
        let token = token_hash(&token.await.unwrap()).unwrap();
        let enrol = async |role, name: &str, now| match store
            .enrol(token.clone(), role, name.into(), vec![1], now)
            .await
        {
            Ok(pool) => Ok(pool),
            Err(StoreError::Refused(code)) => Err(code),
            Err(error) => panic!("{error}"),
        };
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
            let token = create_token(&store, "00", MachineRole::Gateway, None, 1_000, 1, now);
            let token = token_hash(&token.await.unwrap()).unwrap();
            let role = MachineRole::Gateway;
            store.enrol(token, role, "gw".into(), vec![7], now).await.unwrap();
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
        let csr = asked.serialize_request(&key).unwrap().pem().unwrap();
        let issued = again.issue_machine(MachineRole::Agent, "host-1", &csr, &[], now).unwrap();
        let identity = machine_identity(&issued).unwrap().unwrap();
        assert_eq!((identity.role, identity.name.as_str()), (MachineRole::Agent, "host-1"));
        let text = String::from_utf8_lossy(&issued).into_owned();
        assert!(!text.contains("evil.example"));

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

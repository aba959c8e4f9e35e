//! A certificate authority in the place of the broker's, and machines enrolled
//! with it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use ringway::channel::enroll;
use ringway::core::ids::PoolId;
use ringway::tls::settings::TlsSettings;
use ringway::wire::enroll::MachineRole;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Everything listens on loopback.
const SERVER_NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

pub struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    names: Mutex<HashMap<Vec<u8>, String>>,
}

/// A certificate for [`SERVER_NAMES`], good for both ends of TLS.
pub struct Machine {
    certificate_pem: String,
    key_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl TestCa {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Ringway test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, names: Mutex::default() }
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn machine(&self, name: &str) -> Machine {
        let mut params = CertificateParams::new(SERVER_NAMES.map(str::to_owned)).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        self.names.lock().unwrap().insert(leaf.der().to_vec(), name.to_owned());
        Machine {
            certificate_pem: leaf.pem() + &self.issuer.pem(),
            key_pem: key.serialize_pem(),
            chain: vec![leaf.der().clone(), self.issuer.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    /// Whose certificate this is, if it was issued here.
    pub fn name_of(&self, certificate: &[u8]) -> Option<String> {
        self.names.lock().unwrap().get(certificate).cloned()
    }

    /// A server like the broker's: machines show their certificate.
    pub fn server_tls(&self) -> ServerConfig {
        let server = self.machine("server");
        let tls = TlsSettings::default();
        let certificate = tls.certificate(server.chain, server.key).unwrap();
        tls.server_asking_for_client_certificate(certificate, self.roots()).unwrap()
    }

    /// The same for a program: `cert.pem` and `key.pem` in that folder.
    pub fn write_server(&self, folder: &Path) {
        let server = self.machine("server");
        std::fs::write(folder.join("cert.pem"), server.certificate_pem).unwrap();
        std::fs::write(folder.join("key.pem"), server.key_pem).unwrap();
    }

    /// A user's client or a session host: trusts this CA, shows nothing.
    pub fn client_tls(&self) -> ClientConfig {
        TlsSettings::default().client(self.roots()).unwrap()
    }

    /// Writes what `ringway enroll` would have stored.
    pub fn enrol(&self, state_dir: &Path, name: &str, role: MachineRole, broker_url: &str) {
        let machine = self.machine(name);
        let pool: Option<PoolId> = (role == MachineRole::Agent).then(|| "office".parse().unwrap());
        let record =
            enroll::Record { broker_url: broker_url.to_owned(), name: name.to_owned(), role, pool };
        let record = serde_json::to_string(&record).unwrap();
        for (file, content) in [
            (enroll::CA_FILE, self.issuer.pem()),
            (enroll::KEY_FILE, machine.key_pem),
            (enroll::CERTIFICATE_FILE, machine.certificate_pem),
            (enroll::RECORD_FILE, record),
        ] {
            std::fs::write(state_dir.join(file), content).unwrap();
        }
    }
}

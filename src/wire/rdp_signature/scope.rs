//! Which settings a signature covers, and the text that is signed.

use crate::wire::rdp_file::{RdpFile, Setting};

/// The names that Microsoft's signer knows, as it writes them in `signscope`,
/// in its order. Others (`gatewayaccesstoken`, `resourceprovider`,
/// `enablerdsaadauth`) cannot be protected by a signature.
pub const SIGNABLE: &[&str] = &[
    "Full Address",
    "Alternate Full Address",
    "PCB",
    "Use Redirection Server Name",
    "Server Port",
    "Negotiate Security Layer",
    "EnableCredSspSupport",
    "DisableConnectionSharing",
    "AutoReconnection Enabled",
    "GatewayHostname",
    "GatewayUsageMethod",
    "GatewayProfileUsageMethod",
    "GatewayCredentialsSource",
    "Support URL",
    "PromptCredentialOnce",
    "Require pre-authentication",
    "Pre-authentication server address",
    "Alternate Shell",
    "Shell Working Directory",
    "RemoteApplicationProgram",
    "RemoteApplicationExpandWorkingdir",
    "RemoteApplicationMode",
    "RemoteApplicationGuid",
    "RemoteApplicationName",
    "RemoteApplicationIcon",
    "RemoteApplicationFile",
    "RemoteApplicationFileExtensions",
    "RemoteApplicationCmdLine",
    "RemoteApplicationExpandCmdLine",
    "Prompt For Credentials",
    "Authentication Level",
    "AudioMode",
    "RedirectDrives",
    "RedirectPrinters",
    "RedirectCOMPorts",
    "RedirectSmartCards",
    "RedirectPOSDevices",
    "RedirectClipboard",
    "DevicesToRedirect",
    "DrivesToRedirect",
    "LoadBalanceInfo",
    "RedirectDirectX",
    "RDGIsKDCProxy",
    "KDCProxyName",
    "EventLogUploadAddress",
];

pub(super) const SCOPE_NAME: &str = "signscope";
pub(super) const SIGNATURE_NAME: &str = "signature";
const ADDRESS_NAMES: [&str; 2] = ["full address", "alternate full address"];

/// Why a `signscope` and the settings of its file do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeProblem {
    #[error("it names no setting")]
    Empty,
    #[error("{0:?} is not a setting that can be signed")]
    NotSignable(String),
    #[error("it names {0:?} more than once")]
    NamedTwice(String),
    #[error("{0:?} is signed but not in the file")]
    Missing(String),
    #[error("{0:?} is in the file more than once, and clients differ in which one they use")]
    Ambiguous(String),
    #[error("{0:?} decides where the client connects and is not signed")]
    AddressNotSigned(String),
}

/// The display name of a setting that can be signed.
pub(super) fn display_name(name: &str) -> Option<&'static str> {
    SIGNABLE.iter().find(|display| display.eq_ignore_ascii_case(name)).copied()
}

/// The only setting of that name.
pub(super) fn only<'a>(file: &'a RdpFile, name: &str) -> Result<Option<&'a Setting>, ScopeProblem> {
    let mut found = file.settings().filter(|setting| setting.is_named(name));
    let first = found.next();
    match found.next() {
        Some(_) => Err(ScopeProblem::Ambiguous(name.to_owned())),
        None => Ok(first),
    }
}

/// The settings that `scope` names, in its order, each checked to mean one
/// thing only.
pub(super) fn select<'a>(file: &'a RdpFile, scope: &str) -> Result<Vec<&'a Setting>, ScopeProblem> {
    if scope.trim().is_empty() {
        return Err(ScopeProblem::Empty);
    }
    let mut seen: Vec<&str> = Vec::new();
    let mut selected = Vec::new();
    for name in scope.split(',') {
        let display = display_name(name).ok_or_else(|| ScopeProblem::NotSignable(name.into()))?;
        if seen.contains(&display) {
            return Err(ScopeProblem::NamedTwice(name.into()));
        }
        seen.push(display);
        selected.push(only(file, name)?.ok_or_else(|| ScopeProblem::Missing(name.into()))?);
    }
    // Clients prefer the alternate address: added to a signed file it would
    // send them elsewhere while the signature stays right.
    for address in ADDRESS_NAMES {
        let signed = seen.iter().any(|name| name.eq_ignore_ascii_case(address));
        if !signed && file.settings().any(|setting| setting.is_named(address)) {
            return Err(ScopeProblem::AddressNotSigned(address.into()));
        }
    }
    Ok(selected)
}

/// The bytes that are signed: the lines as written, the scope, one NUL, in
/// UTF-16LE without byte order mark.
pub(super) fn message(selected: &[&Setting], scope: &str) -> Vec<u8> {
    let mut text = String::new();
    for setting in selected {
        text.push_str(&setting.line());
        text.push_str("\r\n");
    }
    text.push_str(SCOPE_NAME);
    text.push_str(":s:");
    text.push_str(scope);
    text.push_str("\r\n\0");
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

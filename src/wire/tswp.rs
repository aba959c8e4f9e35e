//! The feed as stock clients read it: XML of MS-TSWP, schema 1.1, 2.0 or 2.1.
//!
//! The schemas are sequences: the order of elements matters, and every
//! `TerminalServerRef` needs its `TerminalServer` (MS-TSWP 2.2.1). Schema 1.1
//! is what a client gets that does not ask for another.

use std::fmt::Write as _;

use super::feed::ResourceKind;
use super::markup::escape;
use crate::core::clock::UnixMillis;

/// Sizes of the square icons that the schema names.
pub const ICON_SIZES: [u32; 6] = [16, 32, 48, 64, 100, 256];

const NAMESPACE: &str = "http://schemas.microsoft.com/ts/2007/05/tswf";
/// All resources are behind the same gateways: one server stands for them.
const SERVER_ID: &str = "ringway";
/// The media type that clients of schema 2.0 and newer ask for.
const MEDIA_TYPE: &str = "application/x-msts-radc+xml";
const VERSION_PARAMETER: &str = "radc_schema_version";

/// Which schema a client understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Schema {
    V1_1,
    V2_0,
    V2_1,
}

impl Schema {
    /// The newest that an `Accept` header (RFC 9110 12.5.1) asks for.
    #[must_use]
    pub fn asked_for(accept: &str) -> Self {
        accept.split(',').filter_map(Self::of_range).max().unwrap_or(Self::V1_1)
    }

    fn of_range(range: &str) -> Option<Self> {
        let mut parts = range.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(MEDIA_TYPE) {
            return None;
        }
        let mut asked = None;
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case(VERSION_PARAMETER) {
                asked = match value {
                    "2.0" => Some(Self::V2_0),
                    "2.1" => Some(Self::V2_1),
                    _ => None,
                };
            } else if name.eq_ignore_ascii_case("q") && value.trim_matches(['0', '.']).is_empty() {
                return None; // "not this one"
            }
        }
        asked
    }

    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::V1_1 => "1.1",
            Self::V2_0 => "2.0",
            Self::V2_1 => "2.1",
        }
    }

    /// MS-TSWP 2.2.1.4.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::V1_1 => "text/xml; charset=utf-8",
            Self::V2_0 | Self::V2_1 => "application/x-msts-radc+xml; charset=utf-8",
        }
    }
}

/// One workspace of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// A GUID.
    pub id: String,
    pub name: String,
    pub description: String,
    pub last_updated: UnixMillis,
    /// Host name of what all resources are reached through.
    pub server_name: String,
    pub resources: Vec<Published>,
}

/// One desktop or application. URLs are absolute or begin with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub id: String,
    pub title: String,
    pub kind: ResourceKind,
    pub last_updated: UnixMillis,
    pub rdp_url: String,
    /// Of the `.ico` file.
    pub icon_url: String,
    /// Of the `.png` file of a size; the size stands for `{size}`.
    pub icon_url_of_size: String,
}

impl Publisher {
    /// The document.
    #[must_use]
    pub fn to_xml(&self, schema: Schema) -> String {
        let mut xml = Xml(String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n"));
        let updated = self.last_updated.utc();
        xml.open(
            "ResourceCollection",
            &[("PubDate", &updated), ("SchemaVersion", schema.version()), ("xmlns", NAMESPACE)],
        );
        let mut attributes = vec![
            ("LastUpdated", updated.as_str()),
            ("Name", &self.name),
            ("ID", &self.id),
            ("Description", &self.description),
        ];
        if schema >= Schema::V2_0 {
            attributes.push(("SupportsReconnect", "false"));
        }
        xml.open("Publisher", &attributes);
        xml.open("Resources", &[]);
        for resource in &self.resources {
            resource.write(&mut xml, schema);
        }
        xml.close("Resources");
        xml.open("TerminalServers", &[]);
        xml.empty(
            "TerminalServer",
            &[("ID", SERVER_ID), ("Name", &self.server_name), ("LastUpdated", &updated)],
        );
        xml.close("TerminalServers");
        xml.close("Publisher");
        xml.close("ResourceCollection");
        xml.0
    }
}

impl Published {
    fn write(&self, xml: &mut Xml, schema: Schema) {
        let updated = self.last_updated.utc();
        let kind = match self.kind {
            ResourceKind::Desktop => "Desktop",
            ResourceKind::RemoteApp => "RemoteApp",
        };
        let mut attributes = vec![
            ("ID", self.id.as_str()),
            ("Alias", &self.id),
            ("Title", &self.title),
            ("LastUpdated", &updated),
            ("Type", kind),
        ];
        if schema >= Schema::V2_1 {
            attributes.push(("ShowByDefault", "true"));
        }
        xml.open("Resource", &attributes);
        xml.open("Icons", &[]);
        xml.empty("IconRaw", &[("FileType", "Ico"), ("FileURL", &self.icon_url)]);
        for size in ICON_SIZES {
            let url = self.icon_url_of_size.replace("{size}", &size.to_string());
            xml.empty(
                &format!("Icon{size}"),
                &[
                    ("Dimensions", &format!("{size}x{size}")),
                    ("FileType", "Png"),
                    ("FileURL", &url),
                ],
            );
        }
        xml.close("Icons");
        xml.empty("FileExtensions", &[]);
        if schema >= Schema::V2_0 {
            xml.open("Folders", &[]);
            xml.empty("Folder", &[("Name", "/")]);
            xml.close("Folders");
        }
        xml.open("HostingTerminalServers", &[]);
        xml.open("HostingTerminalServer", &[]);
        xml.empty("ResourceFile", &[("FileExtension", ".rdp"), ("URL", &self.rdp_url)]);
        xml.empty("TerminalServerRef", &[("Ref", SERVER_ID)]);
        xml.close("HostingTerminalServer");
        xml.close("HostingTerminalServers");
        xml.close("Resource");
    }
}

/// Writes elements that hold attributes and other elements, never text.
struct Xml(String);

impl Xml {
    fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes, ">\n");
    }

    fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes, "/>\n");
    }

    fn close(&mut self, name: &str) {
        let _infallible = writeln!(self.0, "</{name}>");
    }

    fn tag(&mut self, name: &str, attributes: &[(&str, &str)], end: &str) {
        let _infallible = write!(self.0, "<{name}");
        for (attribute, value) in attributes {
            let _infallible = write!(self.0, " {attribute}=\"{}\"", escape(value));
        }
        self.0.push_str(end);
    }
}

#[cfg(test)]
#[path = "tswp_tests.rs"]
mod tests;

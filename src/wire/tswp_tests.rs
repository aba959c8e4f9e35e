//! The document as an independent XML parser reads it, and what clients may
//! ask for.

use proptest::prelude::*;
use roxmltree::{Document, Node};

use super::*;

const T: UnixMillis = UnixMillis(1_800_000_000_000);

fn publisher(texts: &[String]) -> Publisher {
    let text = |n: usize| texts.get(n).cloned().unwrap_or_default();
    let resources = texts.iter().enumerate().map(|(n, title)| Published {
        id: format!("res-{n}"),
        title: title.clone(),
        kind: if n % 2 == 0 { ResourceKind::Desktop } else { ResourceKind::RemoteApp },
        last_updated: T,
        rdp_url: format!("/api/feed/rdp/res-{n}.rdp"),
        icon_url: format!("/i/res-{n}.ico"),
        icon_url_of_size: format!("/i/res-{n}-{{size}}.png"),
    });
    Publisher {
        id: "0f8fad5b-d9cb-469f-a165-70867728950e".into(),
        name: text(0),
        description: text(1),
        last_updated: T,
        server_name: text(2),
        resources: resources.collect(),
    }
}

fn names(node: Node<'_, '_>) -> Vec<String> {
    node.children()
        .filter(Node::is_element)
        .map(|child| child.tag_name().name().to_owned())
        .collect()
}

fn elements<'a, 'i>(document: &'a Document<'i>, name: &'a str) -> Vec<Node<'a, 'i>> {
    document.descendants().filter(|node| node.has_tag_name((NAMESPACE, name))).collect()
}

#[test]
fn elements_stand_in_the_order_of_the_schema() {
    let workspace = publisher(&["Office".to_owned(), "Paint".to_owned()]);
    for schema in [Schema::V1_1, Schema::V2_0, Schema::V2_1] {
        let xml = workspace.to_xml(schema);
        let document = Document::parse(&xml).unwrap();
        let root = document.root_element();
        assert_eq!(root.attribute("SchemaVersion"), Some(schema.version()));
        assert_eq!(root.attribute("PubDate"), Some("2027-01-15T08:00:00Z"));
        assert_eq!(names(root), ["Publisher"]);
        let publisher = elements(&document, "Publisher")[0];
        assert_eq!(names(publisher), ["Resources", "TerminalServers"]);
        assert_eq!(publisher.attribute("SupportsReconnect").is_some(), schema > Schema::V1_1);
        let resources = elements(&document, "Resource");
        assert_eq!(resources[1].attribute("Type"), Some("RemoteApp"));
        let parts = names(resources[0]);
        if schema == Schema::V1_1 {
            assert_eq!(parts, ["Icons", "FileExtensions", "HostingTerminalServers"]);
        } else {
            assert_eq!(parts, ["Icons", "FileExtensions", "Folders", "HostingTerminalServers"]);
        }
        assert_eq!(resources[0].attribute("ShowByDefault").is_some(), schema == Schema::V2_1);
        let icons = names(elements(&document, "Icons")[0]);
        let sizes = ["Icon16", "Icon32", "Icon48", "Icon64", "Icon100", "Icon256"];
        assert_eq!(icons, [&["IconRaw"][..], &sizes].concat());
        let icon = elements(&document, "Icon48")[1];
        assert_eq!(icon.attribute("Dimensions"), Some("48x48"));
        assert_eq!(icon.attribute("FileURL"), Some("/i/res-1-48.png"));
        let hosting = names(elements(&document, "HostingTerminalServer")[0]);
        assert_eq!(hosting, ["ResourceFile", "TerminalServerRef"]);
    }
}

#[test]
fn schema_1_1_unless_a_newer_one_is_asked_for() {
    for (accept, schema) in [
        ("", Schema::V1_1),
        ("*/*", Schema::V1_1),
        ("text/xml", Schema::V1_1),
        ("application/x-msts-radc+xml", Schema::V1_1),
        ("application/x-msts-radc+xml; radc_schema_version=1.1", Schema::V1_1),
        ("application/x-msts-radc+xml; radc_schema_version=2.0; q=0", Schema::V1_1),
        ("application/x-msts-radc+xml; radc_schema_version=9.0", Schema::V1_1),
        ("x/y; radc_schema_version=2.0", Schema::V1_1),
        ("application/x-msts-radc+xml; radc_schema_version=2.0", Schema::V2_0),
        ("application/x-msts-radc+xml;radc_schema_version=2.0,text/xml", Schema::V2_0),
        ("text/xml, Application/X-MSTS-RADC+XML; q=0.5; RADC_schema_version=\"2.1\"", Schema::V2_1),
    ] {
        assert_eq!(Schema::asked_for(accept), schema, "{accept}");
    }
    assert_eq!(Schema::V1_1.content_type(), "text/xml; charset=utf-8");
}

/// What the writer makes of a text: blanks where XML has no character.
fn carried(text: &str) -> String {
    let illegal = |c: char| c.is_control() || ['\u{fffe}', '\u{ffff}'].contains(&c);
    text.chars().map(|c| if illegal(c) { ' ' } else { c }).collect()
}

proptest! {
    #[test]
    fn any_title_is_carried_and_every_reference_leads_somewhere(
        titles in proptest::collection::vec("[<>&\"'\\PC\\p{Cc}]{0,20}", 0..6),
        schema in proptest::sample::select(vec![Schema::V1_1, Schema::V2_0, Schema::V2_1]),
    ) {
        let xml = publisher(&titles).to_xml(schema);
        let document = Document::parse(&xml).unwrap();
        let resources = elements(&document, "Resource");
        prop_assert_eq!(resources.len(), titles.len());
        for (resource, title) in resources.iter().zip(&titles) {
            prop_assert_eq!(resource.attribute("Title").unwrap(), carried(title));
        }
        let servers: Vec<_> =
            elements(&document, "TerminalServer").iter().map(|n| n.attribute("ID")).collect();
        let references = elements(&document, "TerminalServerRef");
        prop_assert_eq!(references.len(), titles.len());
        for reference in references {
            prop_assert!(servers.contains(&reference.attribute("Ref")));
        }
    }

    #[test]
    fn any_accept_header_names_a_schema(accept in "\\PC{0,60}") {
        let schema = Schema::asked_for(&accept);
        prop_assert!(schema == Schema::V1_1 || accept.to_ascii_lowercase().contains(MEDIA_TYPE));
    }
}

//! What clients call a desktop or application: in an `.rdp` file, in the address
//! that a stock client is sent to, and as the target of an RD Gateway channel.

use crate::core::ids::ResourceId;

/// Where stock clients join their session (steps 7 and 8): this, and the name.
pub const WST_PATH: &str = "/wst";

/// The target of a channel is no longer than a name in the DNS.
const TARGET_LEN_MAX: usize = 253;

/// A resource as somebody asks for it. It need not be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceName {
    /// In which workspace; absent: in whichever.
    pub workspace: Option<ResourceId>,
    pub resource: ResourceId,
}

impl ResourceName {
    /// What an `.rdp` file says: `loadbalanceinfo` decides when it is ours, else
    /// `remoteapplicationprogram`. `None` when that is no name.
    #[must_use]
    pub fn of_rdp_file(load_balance_info: &str, application: &str) -> Option<Self> {
        let Some(ours) = load_balance_info.trim().strip_prefix("ringway:") else {
            let resource = application.trim().trim_start_matches('|').parse().ok()?;
            return Some(Self { workspace: None, resource });
        };
        let (workspace, resource) = ours.split_once('/')?;
        Some(Self { workspace: Some(workspace.parse().ok()?), resource: resource.parse().ok()? })
    }

    /// The last parts of a path below [`WST_PATH`].
    #[must_use]
    pub fn of_wst_path(path: &str) -> Option<Self> {
        let name = path.strip_prefix(WST_PATH)?.strip_prefix('/')?;
        let (workspace, resource) = match name.split_once('/') {
            Some((workspace, resource)) => (Some(workspace.parse().ok()?), resource),
            None => (None, name),
        };
        Some(Self { workspace, resource: resource.parse().ok()? })
    }

    /// What the name of a channel's target may mean, likeliest first; nothing if
    /// it is longer than [`TARGET_LEN_MAX`]. Where
    /// clients insist on host names it is `<resource>.<workspace>`, and both may
    /// have dots of their own. Host names have no case.
    pub fn of_target(target: &str) -> impl Iterator<Item = Self> {
        let target = if target.len() > TARGET_LEN_MAX { "" } else { target };
        let target = target.trim().trim_end_matches('.').to_ascii_lowercase();
        let whole = target.parse().ok().map(|resource| Self { workspace: None, resource });
        let dots: Vec<usize> = target.match_indices('.').map(|(at, _)| at).collect();
        whole.into_iter().chain(dots.into_iter().filter_map(move |at| {
            let (resource, workspace) = (target.get(..at)?, target.get(at + 1..)?);
            Some(Self {
                workspace: Some(workspace.parse().ok()?),
                resource: resource.parse().ok()?,
            })
        }))
    }

    /// The path below which a stock client finds it at a gateway.
    #[must_use]
    pub fn wst_path(&self) -> String {
        match &self.workspace {
            Some(workspace) => format!("{WST_PATH}/{workspace}/{}", self.resource),
            None => format!("{WST_PATH}/{}", self.resource),
        }
    }

    /// `loadbalanceinfo`; without a workspace that of nobody.
    #[must_use]
    pub fn load_balance_info(&self) -> String {
        match &self.workspace {
            Some(workspace) => format!("ringway:{workspace}/{}", self.resource),
            None => String::new(),
        }
    }

    /// `remoteapplicationprogram`.
    #[must_use]
    pub fn application(&self) -> String {
        format!("||{}", self.resource)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(workspace: &str, resource: &str) -> ResourceName {
        ResourceName { workspace: workspace.parse().ok(), resource: resource.parse().unwrap() }
    }

    #[test]
    fn either_field_of_an_rdp_file_names_the_resource_and_ours_wins() {
        let of = ResourceName::of_rdp_file;
        assert_eq!(of("ringway:acme/a\r\n", "||b"), Some(name("acme", "a")));
        assert_eq!(of("", "||b"), Some(name("", "b")));
        assert_eq!(of("tsv://something", " b"), Some(name("", "b")));
        for (info, application) in
            [("ringway:acme", "||a"), ("ringway:Acme/a", "||a"), ("", ""), ("", "||A/")]
        {
            assert_eq!(of(info, application), None, "{info} {application}");
        }
    }

    #[test]
    fn a_target_may_be_the_resource_or_a_host_name_made_of_it() {
        let of = |target| ResourceName::of_target(target).collect::<Vec<_>>();
        assert_eq!(of("Desk"), [name("", "desk")]);
        assert_eq!(of("DESK.Acme."), [name("", "desk.acme"), name("acme", "desk")]);
        assert_eq!(
            of("word.v2.acme"),
            [name("", "word.v2.acme"), name("v2.acme", "word"), name("acme", "word.v2")]
        );
        assert_eq!(of(".acme"), [name("", ".acme")]);
        for bad in ["", "10.0.0.5:3389", "a b", "desk/acme", "\u{212a}"] {
            assert_eq!(of(bad), [], "{bad}");
        }
        // What is cut off counts, too: it travels along.
        for padding in [" ", "\u{3000}", "."] {
            let padded = format!("desk{}", padding.repeat(TARGET_LEN_MAX));
            assert_eq!(ResourceName::of_target(&padded).count(), 0, "{padding:?}");
        }
    }

    #[test]
    fn paths_that_name_nothing_are_told_apart() {
        for bad in ["/wst", "/wst/", "/wst//a", "/wst/a/", "/wst/a/b/c", "/wst/A", "/wsta", "/x/a"]
        {
            assert_eq!(ResourceName::of_wst_path(bad), None, "{bad}");
        }
    }

    proptest! {
        /// Whichever way a name is written, it is read as the same.
        #[test]
        fn names_survive_every_way_of_writing(workspace in "[a-z0-9._-]{0,9}", resource in "[a-z0-9._-]{1,9}") {
            let name = name(&workspace, &resource);
            let by_path = ResourceName::of_wst_path(&name.wst_path());
            prop_assert_eq!(by_path.as_ref(), Some(&name));
            let by_file = ResourceName::of_rdp_file(&name.load_balance_info(), &name.application());
            prop_assert_eq!(by_file.as_ref(), Some(&name));
            let target = match &name.workspace {
                Some(workspace) => format!("{}.{workspace}", name.resource),
                None => name.resource.to_string(),
            };
            // A dot at the end of a host name means nothing.
            if !target.ends_with('.') {
                prop_assert!(ResourceName::of_target(&target).any(|meant| meant == name));
            }
        }
    }
}

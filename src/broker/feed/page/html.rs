//! The page's HTML. Whatever comes from outside goes through [`escape`].

use std::fmt::Write as _;

use crate::core::ids::ResourceId;
use crate::wire::feed::file_stem;
use crate::wire::markup::escape;

/// How people come in.
pub(super) struct Door {
    pub(super) workspace: String,
    /// At the identity provider.
    pub(super) with_issuer: bool,
    /// With a static token.
    pub(super) with_token: bool,
}

/// A workspace with something in it.
pub(super) struct Section {
    pub(super) title: String,
    pub(super) description: String,
    pub(super) feed_url: String,
    pub(super) tiles: Vec<Tile>,
}

pub(super) struct Tile {
    pub(super) title: String,
    pub(super) id: ResourceId,
    pub(super) kind: &'static str,
    /// Paths.
    pub(super) icon: String,
    pub(super) file: String,
}

/// The page of somebody who is not signed in, and why not.
pub(super) fn door(door: &Door, problem: Option<&str>) -> String {
    let mut main = String::from("<div class=\"door\">\n<h1>Sign in</h1>\n");
    let _infallible = writeln!(main, "<p>to <strong>{}</strong></p>", escape(&door.workspace));
    if let Some(problem) = problem {
        let _infallible =
            writeln!(main, "<p class=\"problem\" role=\"alert\">{}</p>", escape(problem));
    }
    if door.with_issuer {
        main.push_str("<p><a class=\"button primary\" href=\"/signin\">Sign in</a></p>\n");
    }
    if door.with_token {
        main.push_str(
            "<form method=\"post\" action=\"/signin/token\">\n\
             <label for=\"token\">Your access token</label>\n\
             <input id=\"token\" name=\"token\" type=\"password\" required \
             autocomplete=\"current-password\" spellcheck=\"false\">\n\
             <button class=\"button primary\" type=\"submit\">Sign in</button>\n</form>\n",
        );
    }
    if !door.with_issuer && !door.with_token {
        main.push_str(
            "<p>This page cannot sign you in: the operator has to set \
             <code>client_id</code>. Use <code>ringway login</code>.</p>\n",
        );
    }
    main.push_str("</div>\n");
    whole("Sign in", "", &main)
}

/// The page of somebody who is signed in.
pub(super) fn home(user: &str, public_url: &str, sections: &[Section]) -> String {
    let (user, url) = (escape(user), escape(public_url));
    let who = format!(
        "<p class=\"who\">{user}</p>\n<form method=\"post\" action=\"/signout\">\
         <button class=\"button\" type=\"submit\">Sign out</button></form>\n"
    );
    let mut main = String::from("<h1 class=\"unseen\">Your desktops and applications</h1>\n");
    if sections.is_empty() {
        main.push_str("<p class=\"empty\">Nothing is assigned to you; ask the operator.</p>\n");
    }
    for section in sections {
        section.write(&mut main);
    }
    if !sections.is_empty() {
        main.push_str("<p id=\"status\" class=\"status\" role=\"status\"></p>\n");
        let _infallible = writeln!(
            main,
            "<details class=\"more\">\n<summary>Keep the files current, or use another client</summary>\n\
             <p>Stores all of them and keeps them current:</p>\n\
             <p><code>ringway subscribe {url} --watch</code></p>"
        );
        for section in sections {
            let (title, feed) = (escape(&section.title), escape(&section.feed_url));
            let _infallible =
                writeln!(main, "<p>Workspace address of {title}:</p>\n<p><code>{feed}</code></p>");
        }
        main.push_str("</details>\n");
    }
    whole("Your desktops", &who, &main)
}

impl Section {
    fn write(&self, main: &mut String) {
        let _infallible = writeln!(main, "<section>\n<h2>{}</h2>", escape(&self.title));
        if !self.description.is_empty() {
            let _infallible =
                writeln!(main, "<p class=\"description\">{}</p>", escape(&self.description));
        }
        main.push_str("<ul class=\"tiles\">\n");
        for tile in &self.tiles {
            tile.write(main);
        }
        main.push_str("</ul>\n</section>\n");
    }
}

impl Tile {
    fn write(&self, main: &mut String) {
        let (title, icon, file) = (escape(&self.title), escape(&self.icon), escape(&self.file));
        // Nothing that a shell reads is left in the name of the file.
        let command = format!("ringway connect '{}.rdp'", file_stem(&self.title, &self.id));
        let (kind, command) = (self.kind, escape(&command));
        let _infallible = writeln!(
            main,
            "<li class=\"tile\">\n\
             <img src=\"{icon}\" width=\"56\" height=\"56\" alt=\"\">\n\
             <div class=\"what\"><h3>{title}</h3><p>{kind}</p></div>\n\
             <div class=\"do\">\n\
             <a class=\"button primary\" href=\"{file}\" download>Download\
             <span class=\"unseen\"> {title}</span></a>\n\
             <button class=\"button\" type=\"button\" data-copy=\"{command}\" hidden>Copy command\
             <span class=\"unseen\"> for {title}</span></button>\n\
             </div>\n<code>{command}</code>\n</li>"
        );
    }
}

fn whole(title: &str, who: &str, main: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} - Ringway</title>\n\
         <link rel=\"icon\" href=\"/favicon.ico\">\n<link rel=\"stylesheet\" href=\"/page.css\">\n\
         <script src=\"/page.js\" defer></script>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the content</a>\n\
         <header>\n<p class=\"brand\"><img src=\"/favicon.ico\" width=\"28\" height=\"28\" alt=\"\">\
         Ringway</p>\n{who}</header>\n<main id=\"main\">\n{main}</main>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_stays_text() {
        let evil = "<script>alert(1)</script>\" onload='x'";
        let section = Section {
            title: evil.into(),
            description: evil.into(),
            feed_url: evil.into(),
            tiles: vec![Tile {
                title: evil.into(),
                id: "a".parse().unwrap(),
                kind: "Desktop",
                icon: evil.into(),
                file: evil.into(),
            }],
        };
        let door_of = Door { workspace: evil.into(), with_issuer: true, with_token: true };
        for page in [home(evil, evil, &[section]), door(&door_of, Some(evil))] {
            assert!(!page.contains("<script>") && !page.contains("' "), "{page}");
            assert!(!page.contains("\" onload"), "{page}");
            assert!(!page.contains("style="), "the policy forbids it: {page}");
        }
    }

    #[test]
    fn the_command_names_the_file_that_was_downloaded() {
        let tile = Tile {
            title: "Büro '$(x)'".into(),
            id: "a".parse().unwrap(),
            kind: "Desktop",
            icon: "/i".into(),
            file: "/f".into(),
        };
        let mut html = String::new();
        tile.write(&mut html);
        assert!(html.contains("ringway connect &#39;Büro --(x).rdp&#39;"), "{html}");
    }
}

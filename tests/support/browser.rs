//! A person at a sign-in page: follows redirects, keeps cookies, fills in forms
//! until there is nothing more to fill in.

use std::collections::BTreeMap;

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Method, Response, Url, redirect};
use rustls::ClientConfig;

/// Pages of one visit; a sign-in takes about ten.
const PAGES_MAX: usize = 30;

pub struct Browser {
    client: Client,
    cookies: BTreeMap<String, String>,
    user: String,
}

impl Browser {
    /// Of somebody who signs in under that name.
    pub fn of(user: &str, tls: ClientConfig) -> Self {
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        Self { client, cookies: BTreeMap::new(), user: user.to_owned() }
    }

    /// Opens a page and does what it asks. Returns the last one.
    pub async fn visit(&mut self, url: &str) -> String {
        let mut next = (Method::GET, Url::parse(url).unwrap(), Vec::new());
        for _ in 0..PAGES_MAX {
            let (method, url, form) = next;
            let answer = self.load(method, url.clone(), &form).await;
            let status = answer.status();
            if let Some(location) = answer.headers().get(LOCATION) {
                let location = url.join(location.to_str().unwrap()).unwrap();
                next = (Method::GET, location, Vec::new());
                continue;
            }
            let page = answer.text().await.unwrap();
            assert!(status.is_success(), "{url} answered {status}: {page}");
            match form_of(&page, &self.user) {
                Some((action, filled)) => next = (Method::POST, url.join(&action).unwrap(), filled),
                None => return page,
            }
        }
        panic!("{url} leads nowhere");
    }

    async fn load(&mut self, method: Method, url: Url, form: &[(String, String)]) -> Response {
        let cookies: Vec<_> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut request = self.client.request(method.clone(), url);
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        if method == Method::POST {
            request = request.form(form);
        }
        let answer = request.send().await.unwrap();
        for cookie in answer.headers().get_all(SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        answer
    }
}

/// Where the page's form goes, and what a person would send.
fn form_of(page: &str, user: &str) -> Option<(String, Vec<(String, String)>)> {
    let (_, form) = page.split_once("<form")?;
    let form = form.split("</form>").next()?;
    let action = attribute(form.split('>').next()?, "action").unwrap_or_default();
    let inputs = form.split("<input").skip(1).filter_map(|input| {
        let input = input.split('>').next()?;
        let value = match attribute(input, "type").as_deref() {
            Some("password") => "any password".to_owned(),
            Some("text") => user.to_owned(),
            _ => attribute(input, "value")?,
        };
        Some((attribute(input, "name")?, value))
    });
    Some((action, inputs.collect()))
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    let value = rest.split('"').next()?;
    Some(value.replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&"))
}

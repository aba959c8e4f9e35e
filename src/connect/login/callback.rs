//! The loopback port to which the provider sends the browser back
//! (RFC 8252 7.3).

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::LoginError;
use super::code::{Answer, Attempt};
use crate::core::secret::Secret;
use crate::wire::http_head::{HeadStatus, RequestHead};

const PATH: &str = "/callback";
/// Browsers open connections before they need them; others wait in the kernel.
const CONNECTIONS_MAX: usize = 16;
/// One request, its answer included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 * 1024;

const SIGNED_IN: &str = "You are signed in. You can close this page.";
const REFUSED: &str = "You are not signed in. The terminal says why.";
const NOTHING: &str = "There is nothing here.";

/// An open port.
#[derive(Debug)]
pub struct Callback {
    listener: TcpListener,
    uri: String,
}

impl Callback {
    /// A port of the kernel's choice.
    ///
    /// # Errors
    /// When there is none.
    pub async fn open() -> Result<Self, LoginError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(LoginError::Listen)?;
        let port = listener.local_addr().map_err(LoginError::Listen)?.port();
        Ok(Self { listener, uri: format!("http://127.0.0.1:{port}{PATH}") })
    }

    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Waits for the answer to that attempt; whatever else comes is told that
    /// there is nothing.
    ///
    /// # Errors
    /// The provider's refusal, or that nobody came in time.
    pub async fn wait(self, attempt: &Attempt, limit: Duration) -> Result<Secret, LoginError> {
        let waited = timeout(limit, self.answer(attempt)).await;
        waited.unwrap_or(Err(LoginError::NobodyCame { after_s: limit.as_secs() }))
    }

    async fn answer(&self, attempt: &Attempt) -> Result<Secret, LoginError> {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if open.len() < CONNECTIONS_MAX => {
                    let (stream, _) = accepted.map_err(LoginError::Listen)?;
                    open.push(async move {
                        timeout(REQUEST_TIMEOUT, serve(stream, attempt)).await.ok().flatten()
                    });
                }
                Some(answered) = open.next() => {
                    if let Some(answer) = answered {
                        return answer;
                    }
                }
            }
        }
    }
}

/// One request of a connection. The answer to the attempt, if it was that.
async fn serve(mut stream: TcpStream, attempt: &Attempt) -> Option<Result<Secret, LoginError>> {
    let head = read_head(&mut stream).await?;
    let answer = if head.method == "GET" && head.path == PATH {
        attempt.answer(head.query())
    } else {
        Answer::Strangers
    };
    let (status, text, answer) = match answer {
        Answer::Ours(Ok(code)) => ("200 OK", SIGNED_IN, Some(Ok(code))),
        Answer::Ours(Err(error)) => ("400 Bad Request", REFUSED, Some(Err(error))),
        Answer::Strangers => ("404 Not Found", NOTHING, None),
    };
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>Ringway</title><p>{text}</p></html>"
    );
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n\
         Content-Security-Policy: default-src 'none'\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    // Whether the browser hears it changes nothing.
    let _best_effort = stream.write_all(response.as_bytes()).await;
    let _best_effort = stream.shutdown().await;
    answer
}

async fn read_head(stream: &mut TcpStream) -> Option<RequestHead> {
    let mut bytes = Vec::with_capacity(1_024);
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        match RequestHead::parse(&bytes, HEAD_BYTES_MAX).ok()? {
            HeadStatus::Complete(head) => return Some(head),
            HeadStatus::Partial => {}
        }
    }
}

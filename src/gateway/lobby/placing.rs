//! What the lobby asks the broker for, through the control thread: a place, and
//! which gateways there are (step 7).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::connection::Connection;
use super::exchange::{Next, answer, json, read_body, send};
use super::waiting::give_up;
use crate::core::codes::{Code, Refusal};
use crate::core::secret::Secret;
use crate::core::tickets::{Claims, Role};
use crate::gateway::shared::{PlaceQuestion, Placed, Request, Shared};
use crate::wire::arm::{
    ConnectionRequest, ConnectionResponse, RingwayDetails, over_encoded, target_certificate,
};
use crate::wire::channel::Placement;
use crate::wire::host_certificate::name_for_clients;
use crate::wire::http_head::RequestHead;
use crate::wire::resource_name::{ResourceName, WST_PATH};

/// How our own connector calls itself. Whoever does not is a stock client.
const CONNECTOR: &str = "ringway/";

/// Whether the request comes from a client that knows nothing of us.
pub fn is_from_stock_client(head: &RequestHead) -> bool {
    !head.header("user-agent").is_some_and(|agent| agent.starts_with(CONNECTOR))
}

/// Step 7: which gateway, and a place on a host.
pub async fn place(connection: &mut Connection, head: &RequestHead) -> Result<Next, Refusal> {
    let begun = Instant::now();
    let bearer = Secret::from(head.bearer().ok_or(Code::TokenMissing)?);
    let body = read_body(connection, head).await?;
    let request: ConnectionRequest = serde_json::from_slice(&body)
        .map_err(|error| Refusal::with_detail(Code::RequestMalformed, error).curbed())?;
    let name = ResourceName::of_rdp_file(&request.load_balance_info, &request.application);
    let question = PlaceQuestion {
        bearer,
        application: request.application,
        load_balance_info: request.load_balance_info,
        client: connection.peer,
        client_rtt_us: connection.client_rtt_us(),
        samples: request.ringway_rtt_samples,
        unreachable: request.ringway_unreachable,
        here_only: false,
    };
    let Placed { placement, gateway, explain } =
        ask_for_place(&connection.shared, question).await?;
    let certificate = certificate_of(&placement);
    let host = placement.host.as_str();
    let stock_location = is_from_stock_client(head).then(|| stock_location(&placement, name));
    let response = ConnectionResponse {
        gateway_location: stock_location
            .clone()
            .unwrap_or_else(|| format!("{}/relay/client", placement.gateway_url).into()),
        gateway_location_pre_web_socket: stock_location,
        redirected_server_name: certificate
            .as_deref()
            .map_or_else(|| host.to_owned(), |der| name_for_clients(der, host)),
        redirected_server_cert: certificate
            .map(|der| over_encoded(&target_certificate(&der)))
            .unwrap_or_default(),
        ringway: RingwayDetails {
            session: placement.session,
            gateway,
            host: placement.host,
            ticket: placement.client_ticket,
            explain,
        },
    };
    let next = send(connection, head, &json(&response)?).await?;
    connection.meter.record(|set| &mut set.answer_us, begun);
    Ok(next)
}

/// Where a stock client is sent. It goes there more than once, at times with
/// nothing else in its hands: so the place is in the address, and the resource
/// too, for when the place is used up.
fn stock_location(placement: &Placement, name: Option<ResourceName>) -> Secret {
    let origin = placement.gateway_url.trim_start_matches("https://");
    let path = name.map_or_else(|| format!("{WST_PATH}/"), |name| name.wst_path());
    let ticket = placement.client_ticket.expose();
    format!("wss://{origin}{path}?{PLACE_PARAMETER}={ticket}").into()
}

/// The query parameter of a client's ticket.
pub const PLACE_PARAMETER: &str = "place";

/// In DER. One that the client could not read would keep it away.
fn certificate_of(placement: &Placement) -> Option<Vec<u8>> {
    let der = STANDARD.decode(placement.server_certificate.as_ref()?).ok();
    let der = der.filter(|der| Certificate::from_der(der).is_ok());
    if der.is_none() {
        tracing::warn!(step = 9, host = %placement.host, "A host's certificate cannot be read");
    }
    der
}

/// Has a place reserved.
async fn ask_for_place(shared: &Shared, question: PlaceQuestion) -> Result<Placed, Refusal> {
    if shared.is_draining() {
        return Err(Code::GatewayDraining.into());
    }
    shared.teller.tell(7, None, format!("asked at {}", shared.id));
    let (answer, answered) = oneshot::channel();
    shared.ask(Request::Place { question, answer })?;
    broker_says(shared, answered).await
}

/// A place at this gateway for a client that is here, and leave to take it.
pub async fn admit_here(
    connection: &Connection,
    bearer: Secret,
    application: String,
    load_balance_info: String,
) -> Result<Claims, Refusal> {
    let shared = &connection.shared;
    let question = PlaceQuestion {
        bearer,
        application,
        load_balance_info,
        client: connection.peer,
        client_rtt_us: connection.client_rtt_us(),
        samples: Vec::new(),
        unreachable: Vec::new(),
        here_only: true,
    };
    let Placed { placement, .. } = ask_for_place(shared, question).await?;
    let admitted = shared.admit(placement.client_ticket.expose(), Role::Client);
    Ok(admitted.inspect_err(|code| give_up(shared, placement.session, *code))?)
}

/// Whether this is a user's token.
pub async fn check_token(shared: &Shared, bearer: Secret) -> Result<(), Refusal> {
    let (answer, answered) = oneshot::channel();
    shared.ask(Request::CheckToken { bearer, answer })?;
    broker_says(shared, answered).await
}

/// Whether this is a token of the user whose session has this tunnel context.
pub async fn reauthenticate(shared: &Shared, context: u64, bearer: Secret) -> Result<(), Refusal> {
    let (answer, answered) = oneshot::channel();
    shared.ask(Request::Reauthenticate { context, bearer, answer })?;
    broker_says(shared, answered).await
}

/// Which gateways a user may measure the way to, before step 7. The broker
/// says whether it is a user: a stranger is not shown what there is.
pub async fn list(connection: &mut Connection, head: &RequestHead) -> Result<Next, Refusal> {
    let shared = Arc::clone(&connection.shared);
    let bearer = Secret::from(head.bearer().ok_or(Code::TokenMissing)?);
    let (answer_to, answered) = oneshot::channel();
    let client_rtt_us = connection.client_rtt_us();
    shared.ask(Request::List { bearer, client_rtt_us, answer: answer_to })?;
    let list = broker_says(&shared, answered).await?;
    answer(connection, head, &json(&list)?).await
}

/// What the control thread has from the broker, within its deadline.
async fn broker_says<T>(
    shared: &Shared,
    answered: oneshot::Receiver<Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let limit = Duration::from_millis(shared.config().limits.broker_timeout_ms);
    match timeout(limit, answered).await {
        Ok(Ok(said)) => said,
        Ok(Err(_)) | Err(_) => Err(Code::BrokerUnreachable.into()),
    }
}

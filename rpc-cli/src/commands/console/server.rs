//! The HTTP server: which requests there are, who may send them, and how many at a time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt as _};
use rpc_runtime::Broker;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::access::{Access, Refusal};
use super::assets;
use super::calls::{self, CallRequest, failure_json};
use super::collector::Collector;
use super::letters::{self, ChangeRequest, Changed, ListRequest, ShowRequest};
use super::live;
use crate::dead_letters::scan::Interrupted;
use crate::failure::Failure;
use crate::lookup;
use crate::options::Options;

/// How many pages may be open at a time.
const MAX_PAGES: usize = 16;

/// How many calls may run at a time.
const MAX_CALLS: usize = 32;

/// The limit on a request, in bytes: arguments may be as large as RabbitMQ's default message limit,
/// and are escaped.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// How long a look at dead letters, or the end of the console, waits for another look to end. A
/// look is any request that holds letters, also to retry or drop them.
const LETTERS_LIMIT: Duration = Duration::from_secs(15);

/// What the requests share.
pub(super) struct ConsoleState {
    pub(super) access: Access,
    pub(super) is_read_only: bool,
    pub(super) broker: Broker,
    pub(super) options: Options,
    /// The first line of each page.
    pub(super) hello: Arc<str>,
    pub(super) collector: Arc<Collector>,
    pages: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    /// Locked during a look at dead letters: the letters that it holds are hidden from others.
    letters: Arc<Mutex<()>>,
    /// Whether the process is about to end. Then no other look at dead letters begins.
    is_ending: watch::Sender<bool>,
}

impl ConsoleState {
    pub(super) fn new(
        access: Access,
        is_read_only: bool,
        broker: Broker,
        options: Options,
        hello: String,
    ) -> Self {
        Self {
            access,
            is_read_only,
            broker,
            options,
            hello: hello.into(),
            collector: Arc::new(Collector::new()),
            pages: Arc::new(Semaphore::new(MAX_PAGES)),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
            letters: Arc::default(),
            is_ending: watch::Sender::new(false),
        }
    }

    /// Refuses looks at dead letters from now on, interrupts one that is under way, and waits for
    /// its end: a letter whose retry breaks off may be in two queues.
    pub(super) async fn finish_letters(&self) {
        self.is_ending.send_replace(true);
        // If this takes too long, the broker puts the letters back when the process ends.
        let _ = timeout(LETTERS_LIMIT, self.letters.lock()).await;
    }

    /// Returns a future that completes when the console is ending.
    fn interrupted(&self) -> Interrupted {
        let mut is_ending = self.is_ending.subscribe();
        Box::pin(async move {
            // An error means that the console has ended.
            let _ = is_ending.wait_for(|is_ending| *is_ending).await;
        })
    }

    /// Fails if the console is read-only. Called before calls, and before retries and drops.
    fn check_may_change(&self) -> Result<(), ErrorResponse> {
        if self.is_read_only {
            let message = "the console is read-only";
            return Err(ErrorResponse::new(StatusCode::FORBIDDEN, message));
        }
        Ok(())
    }
}

type Shared = State<Arc<ConsoleState>>;

/// Returns what the server answers: the page without the token, and the API only with it. Both pass
/// [`Access::check_site`] first.
pub(super) fn router(console: Arc<ConsoleState>) -> Router {
    let api = Router::new()
        .route("/api/live", get(live))
        .route("/api/call", post(call))
        .route("/api/letters/list", post(list_letters))
        .route("/api/letters/show", post(show_letter))
        .route("/api/letters/change", post(change_letters))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&console),
            require_token,
        ));
    let router = api.merge(assets::router());
    router
        .layer(middleware::from_fn_with_state(
            Arc::clone(&console),
            require_own_site,
        ))
        .layer(middleware::map_response(assets::add_headers))
        .with_state(console)
}

async fn require_own_site(State(console): Shared, request: Request, next: Next) -> Response {
    match console.access.check_site(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => ErrorResponse::from(refusal).into_response(),
    }
}

async fn require_token(State(console): Shared, request: Request, next: Next) -> Response {
    match console.access.check_token(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => ErrorResponse::from(refusal).into_response(),
    }
}

async fn live(State(console): Shared) -> Result<Response, ErrorResponse> {
    let permit = take_permit(&console.pages, "too many pages of this console are open")?;
    let lines = live::lines(Arc::clone(&console.hello), &console.collector, permit);
    Ok(stream_of(lines))
}

/// Calls a method. When the page stops reading the response, the server drops it and, with it, the
/// call.
async fn call(State(console): Shared, request: Request) -> Result<Response, ErrorResponse> {
    console.check_may_change()?;
    let permit = take_permit(&console.calls, "too many calls of this console are running")?;
    // The body is read after a permit was taken, so at most `MAX_CALLS` are kept at a time.
    let read = Json::<CallRequest>::from_request(request, &()).await;
    let Json(request) =
        read.map_err(|rejection| ErrorResponse::new(rejection.status(), &rejection.body_text()))?;
    let known = console.collector.service(&request.queue, &request.service);
    let service = match known {
        Some(service) => service,
        // The collector may not have found it, for instance if the user may not search for workers.
        None => {
            let on_queue = lookup::on_queue(&console.broker, &request.queue).await?;
            lookup::named_on_queue(&request.queue, on_queue, &request.service)?
        }
    };
    let lines = calls::lines(&console.broker, &service, request, permit)?;
    Ok(stream_of(lines))
}

async fn list_letters(
    State(console): Shared,
    Json(request): Json<ListRequest>,
) -> Result<Json<Value>, ErrorResponse> {
    let (options, interrupted) = (console.options.clone(), console.interrupted());
    let listed = run_look(&console, async move {
        letters::list(request, interrupted, &options).await
    });
    Ok(Json(listed.await??))
}

async fn show_letter(
    State(console): Shared,
    Json(request): Json<ShowRequest>,
) -> Result<Json<Value>, ErrorResponse> {
    let (options, interrupted) = (console.options.clone(), console.interrupted());
    let shown = run_look(&console, async move {
        letters::show(request, interrupted, &options).await
    });
    Ok(Json(shown.await??))
}

async fn change_letters(
    State(console): Shared,
    Json(request): Json<ChangeRequest>,
) -> Result<Json<Value>, ErrorResponse> {
    console.check_may_change()?;
    let (options, interrupted) = (console.options.clone(), console.interrupted());
    let changed = run_look(&console, async move {
        letters::change(request, interrupted, &options).await
    });
    let Changed { report, failure } = changed.await??;
    match failure {
        None => Ok(Json(report)),
        Some(failure) => {
            let mut response = ErrorResponse::from(failure);
            response.reason["changed"] = report;
            Err(response)
        }
    }
}

/// Runs a look at dead letters when no other one runs, and to its end even if the page is closed
/// meanwhile. Refuses it if another one does not end in time, or if the console is ending.
async fn run_look<T: Send + 'static>(
    console: &ConsoleState,
    look: impl Future<Output = T> + Send + 'static,
) -> Result<T, ErrorResponse> {
    let Ok(lock) = timeout(LETTERS_LIMIT, Arc::clone(&console.letters).lock_owned()).await else {
        let message = "another look at dead letters has not ended yet";
        return Err(ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, message));
    };
    // Checked with the lock: either `finish_letters` has set it before, or it waits for the lock.
    if *console.is_ending.borrow() {
        let message = "the console is ending";
        return Err(ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, message));
    }
    let looking = tokio::spawn(async move {
        let looked = look.await;
        drop(lock);
        looked
    });
    looking.await.map_err(|_| {
        let message = "the look at dead letters broke off";
        ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })
}

/// Takes a permit. Refuses the request if there is none left.
fn take_permit(permits: &Arc<Semaphore>, refusal: &str) -> Result<OwnedSemaphorePermit, ErrorResponse> {
    let permit = Arc::clone(permits).try_acquire_owned();
    permit.map_err(|_| ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, refusal))
}

/// Returns a response that has lines of JSON as they come.
fn stream_of(lines: impl Stream<Item = String> + Send + 'static) -> Response {
    let body = Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// The response to a request that is refused, or whose work failed.
#[derive(Debug)]
struct ErrorResponse {
    status: StatusCode,
    reason: Value,
}

impl ErrorResponse {
    /// For a request that had no effect.
    fn new(status: StatusCode, message: &str) -> Self {
        let reason = json!({"message": message, "executed": "no"});
        Self { status, reason }
    }
}

impl From<Refusal> for ErrorResponse {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status(), &refusal.to_string())
    }
}

impl From<Failure> for ErrorResponse {
    fn from(failure: Failure) -> Self {
        let mut reason = failure_json(&failure);
        reason["hint"] = page_hint(&failure).into();
        let status = match failure {
            Failure::Usage { .. } | Failure::InvalidJson { .. } => StatusCode::BAD_REQUEST,
            Failure::NotFound { .. } => StatusCode::NOT_FOUND,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self { status, reason }
    }
}

/// Returns what to do about a failure. For invalid JSON, its own hint would be about quotes for the
/// shell.
fn page_hint(failure: &Failure) -> Option<String> {
    match failure {
        Failure::InvalidJson { .. } => Some("write it like {\"id\": \"user:12345\"}".to_owned()),
        other => other.hint(),
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        (self.status, Json(self.reason)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn console() -> ConsoleState {
        let access = Access {
            token: String::new(),
            names: Vec::new(),
            is_remote: false,
        };
        let options = Options {
            url: None,
            json: false,
            verbose: 0,
        };
        ConsoleState::new(access, false, Broker::in_process(), options, String::new())
    }

    #[tokio::test(start_paused = true)]
    async fn no_look_at_dead_letters_begins_once_the_console_is_ending() {
        let console = console();
        let (end, ended) = oneshot::channel::<()>();
        let running = run_look(&console, async { ended.await.is_ok() });
        let waiting = run_look(&console, async { unreachable!("it was refused") });
        let ending = async {
            console.finish_letters().await;
            // The process may take a while to end.
            let late = run_look(&console, async { unreachable!("it was refused") });
            late.await.unwrap_err().status
        };
        let ends = async {
            // The others wait for it.
            tokio::time::sleep(Duration::from_secs(1)).await;
            end.send(())
        };
        let (ran, refused, late, sent) = tokio::join!(running, waiting, ending, ends);
        assert!(ran.unwrap() && sent.is_ok());
        let refused: ErrorResponse = refused.unwrap_err();
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!((refused.status, late), (unavailable, unavailable));
    }
}

//! A layer that allows callers certain methods only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::TryFutureExt;
use futures_util::future::{Either, MapErr, Ready, ready};
use tower_layer::Layer;
use tower_service::Service;
use tracing::Level;

use super::BoxError;
use super::handler::IncomingCall;
use super::method_names::MethodNames;
use crate::protocol::{Fault, FaultCode};
use crate::service::invocation::Answer;
use crate::telemetry::{LogLimit, Suppressed};

/// A server's layer that allows callers certain methods only. Other requests are refused with the
/// fault `unauthorized`, and their methods do not run.
///
/// A caller is identified by its RabbitMQ user, [`Context::user_id`](crate::Context::user_id). The
/// broker [validates it](https://www.rabbitmq.com/docs/validated-user-id): a caller cannot send
/// another user's name, unless its user has the tag `impersonator`. Callers send it if
/// [`send_user_id`](crate::BrokerBuilder::send_user_id) is set. The copy of a job that was retried,
/// delayed or redelivered has no user: only [`allow_everybody`](Self::allow_everybody) allows its
/// method. A method is allowed if any rule allows it; without a rule, no method is.
///
/// ```
/// # use rpc_runtime::{Broker, Server, ServerError, service};
/// # #[service]
/// # pub trait Directory { async fn get_email(&self, id: &str) -> String; async fn rename(&self, id: &str, name: &str); }
/// # struct Users;
/// # impl Directory for Users {
/// #     async fn get_email(&self, _: &str) -> String { String::new() }
/// #     async fn rename(&self, _: &str, _: &str) {}
/// # }
/// # async fn example(broker: Broker) -> Result<(), ServerError> {
/// use rpc_runtime::middleware::Authorize;
///
/// let rules = Authorize::new()
///     .allow_any_user(["Directory.get_email"])
///     .allow("back-office", ["Directory.*"])
///     .allow("monitoring", ["rpc.*"]);
/// let server = Server::new(&broker).layer(rules).serve(DirectoryServer::new(Users)).start().await?;
/// # server.stop().await
/// # }
/// ```
///
/// A method is named by its service and its name on the wire, as in `Directory.get_email`. A `*` at
/// the end matches any ending. The built-in methods belong to a service named `rpc`.
#[derive(Debug, Clone, Default)]
pub struct Authorize {
    rules: Arc<AllowRules>,
}

impl Authorize {
    /// Allows no method.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows this RabbitMQ user to call these methods.
    #[must_use]
    pub fn allow<M: Into<String>>(
        mut self,
        user: impl Into<String>,
        methods: impl IntoIterator<Item = M>,
    ) -> Self {
        let rules = Arc::make_mut(&mut self.rules);
        rules.of_users.entry(user.into()).or_default().add(methods);
        self
    }

    /// Allows every caller that sends its user to call these methods.
    #[must_use]
    pub fn allow_any_user<M: Into<String>>(mut self, methods: impl IntoIterator<Item = M>) -> Self {
        Arc::make_mut(&mut self.rules).of_any_user.add(methods);
        self
    }

    /// Allows every caller to call these methods, even if it does not send its user.
    #[must_use]
    pub fn allow_everybody<M: Into<String>>(mut self, methods: impl IntoIterator<Item = M>) -> Self {
        Arc::make_mut(&mut self.rules).of_everybody.add(methods);
        self
    }
}

#[derive(Debug, Clone, Default)]
struct AllowRules {
    of_everybody: MethodNames,
    of_any_user: MethodNames,
    of_users: BTreeMap<String, MethodNames>,
}

impl AllowRules {
    fn allows(&self, user: Option<&str>, method: &str) -> bool {
        if self.of_everybody.contains(method) {
            return true;
        }
        let Some(user) = user else { return false };
        let own = self.of_users.get(user);
        self.of_any_user.contains(method) || own.is_some_and(|own| own.contains(method))
    }

    /// Checks whether a user may call a method, which is named `Service.method`.
    ///
    /// # Errors
    ///
    /// Returns the fault `unauthorized` if no rule allows it.
    fn check(&self, user: Option<&str>, method: &str) -> Result<(), Fault> {
        if self.allows(user, method) {
            return Ok(());
        }
        let message = match user {
            Some(user) => format!("user {user:?} may not call {method:?}"),
            None => format!(
                "the request for {method:?} has no user_id: its caller does not `send_user_id`, or it is the copy of a job, which only `allow_everybody` allows"
            ),
        };
        Err(Fault::new(FaultCode::Unauthorized, message))
    }
}

impl<S> Layer<S> for Authorize {
    type Service = Authorized<S>;

    fn layer(&self, inner: S) -> Authorized<S> {
        Authorized {
            inner,
            rules: Arc::clone(&self.rules),
            log: Arc::new(LogLimit::new("Authorize")),
        }
    }
}

/// A service behind [`Authorize`].
#[derive(Debug, Clone)]
pub struct Authorized<S> {
    inner: S,
    rules: Arc<AllowRules>,
    log: Arc<LogLimit>,
}

impl<S> Service<IncomingCall> for Authorized<S>
where
    S: Service<IncomingCall, Response = Answer, Error: Into<BoxError>>,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = Either<Ready<Result<Answer, BoxError>>, MapErr<S::Future, fn(S::Error) -> BoxError>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, call: IncomingCall) -> Self::Future {
        let method = call.full_name();
        match self.rules.check(call.context().user_id(), &method) {
            Ok(()) => Either::Right(self.inner.call(call).map_err(Into::into)),
            Err(fault) => {
                if let Some(Suppressed(suppressed)) = self.log.admit(Level::DEBUG, "unauthorized") {
                    let user_id = call.context().user_id();
                    tracing::debug!(user_id, method, suppressed, "refused a caller");
                }
                Either::Left(ready(Err(fault.into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_no_rule_allows_is_refused() {
        let Authorize { rules } = Authorize::new()
            .allow_everybody(["rpc.ping"])
            .allow_any_user(["Directory.get_email"])
            .allow("alice", ["Directory.*"])
            .allow("alice", ["Audit.read"])
            .allow("root", ["*"]);
        let (nobody, alice, bob, root) = (None, Some("alice"), Some("bob"), Some("root"));
        for (user, method, allowed) in [
            (nobody, "rpc.ping", true),
            (nobody, "rpc.ping2", false),
            (nobody, "Directory.get_email", false),
            (bob, "Directory.get_email", true),
            (bob, "Directory.rename", false),
            (bob, "rpc.ping", true),
            (alice, "Directory.rename", true),
            (alice, "DirectoryOfSecrets.read", false),
            (alice, "Audit.read", true),
            (alice, "Audit.write", false),
            (root, "Audit.write", true),
        ] {
            let checked = rules.check(user, method);
            assert_eq!(checked.is_ok(), allowed, "{user:?} {method}");
            if let Err(fault) = checked {
                assert_eq!(fault.code, FaultCode::Unauthorized);
            }
        }
        assert!(AllowRules::default().check(root, "Directory.get_email").is_err());
    }
}

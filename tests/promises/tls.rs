//! Connections by `amqps://`: who is not trusted is not talked to, a certificate can be the login,
//! and all that is promised of a connection is promised of these.
//!
//! Their broker is their own.

use std::io::ErrorKind;
use std::time::Duration;

use rpc_runtime::{
    Broker, BrokerBuilder, BrokerError, Chain, Context, RequestQueue, RunningServer, Server, Tls, TlsFailure,
    service,
};
use rpc_tests::certificates::{Authority, Identity};
use rpc_tests::gate::soon;
use rpc_tests::programs;
use rpc_tests::proxy::{Proxy, Target};
use rpc_tests::rabbit::{Node, Permissions, unique};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;

#[service]
trait Guestbook {
    /// The RabbitMQ user who asks.
    #[rpc(idempotent)]
    async fn who_am_i(&self, #[rpc(context)] cx: &Context) -> Option<String>;
}

struct Book;

impl Guestbook for Book {
    async fn who_am_i(&self, cx: &Context) -> Option<String> {
        cx.user_id().map(str::to_owned)
    }
}

/// A broker with a certificate for `localhost` and for no address, of an authority that only these
/// tests know.
struct Site {
    node: Node,
    authority: Authority,
}

async fn site() -> &'static Site {
    // A static is never dropped; the watchdog sees the process end.
    static SITE: OnceCell<Site> = OnceCell::const_new();
    let start = async || Site::start("").await;
    SITE.get_or_init(start).await
}

impl Site {
    async fn start(configuration: &str) -> Self {
        let authority = Authority::new().unwrap();
        let identity = authority.server(&["localhost"]).unwrap();
        let node = Node::start_with_tls(&authority, &identity, configuration)
            .await
            .unwrap();
        Self { node, authority }
    }

    fn url(&self) -> String {
        self.node.tls_url("guest:guest", "localhost")
    }

    fn trusted(&self) -> Tls {
        Tls::new().ca_certificate_pem(self.authority.pem())
    }

    /// Trusted, and with a certificate for this client.
    fn known_as(&self, name: &str) -> Tls {
        let Identity { chain, key } = self.authority.client(name).unwrap();
        self.trusted().identity_pem(chain, key)
    }
}

fn builder(tls: Tls) -> BrokerBuilder {
    Broker::builder()
        .tls(tls)
        .connect_timeout(Duration::from_secs(10))
}

async fn serve(worker: &Broker, queue: &str) -> RunningServer {
    let server = Server::new(worker).serve_on(RequestQueue::new(queue), GuestbookServer::new(Book));
    server.start().await.unwrap()
}

async fn refusal(builder: BrokerBuilder, url: &str) -> BrokerError {
    let attempt = soon("the attempt ends", builder.address(url).connect()).await;
    attempt.expect_err("this cannot be trusted")
}

/// What is in the way of TLS.
async fn failure(builder: BrokerBuilder, url: &str) -> TlsFailure {
    let error = refusal(builder, url).await;
    println!("{}", Chain(&error));
    match error {
        BrokerError::Tls { failure, .. } => failure,
        other => panic!("{other:?}"),
    }
}

/// What cannot be used of the options, which is found out before anything is connected to.
fn unusable(tls: Tls) -> String {
    match builder(tls).address("amqps://localhost:1").lazy() {
        Err(error @ BrokerError::InvalidTls { .. }) => Chain(&error).to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_call_goes_over_tls_if_a_trusted_authority_signed_the_brokers_certificate() {
    let site = site().await;
    let queue = unique("tls");
    let worker = builder(site.trusted())
        .address(site.url())
        .connect()
        .await
        .unwrap();
    let server = serve(&worker, &queue).await;
    let caller = builder(site.trusted())
        .address(site.url())
        .connect()
        .await
        .unwrap();
    let client = GuestbookClient::builder(&caller).queue(&queue).build();
    assert_eq!(soon("the call ends", client.who_am_i()).await.unwrap(), None);

    let connections = site
        .node
        .ctl(&["list_connections", "--no-table-headers", "ssl"])
        .await
        .unwrap();
    assert!(
        connections.lines().filter(|&ssl| ssl == "true").count() >= 4,
        "{connections}"
    );
    assert!(!connections.contains("false"), "{connections}");
    caller.close().await;
    server.stop().await.unwrap();
    worker.close().await;
}

#[tokio::test]
async fn a_broker_that_is_not_trusted_is_not_talked_to() {
    let site = site().await;
    let stranger = Authority::new().unwrap();
    let others = Tls::new().ca_certificate_pem(stranger.pem());
    assert_eq!(
        failure(builder(others.clone()), &site.url()).await,
        TlsFailure::Untrusted
    );
    // Several are trusted where several are given.
    let both = others.ca_certificate_pem(site.authority.pem());
    builder(both)
        .address(site.url())
        .connect()
        .await
        .unwrap()
        .close()
        .await;

    // This system does not know the tests' authority; it may know none at all.
    match refusal(Broker::builder(), &site.url()).await {
        BrokerError::Tls { failure, .. } => assert_eq!(failure, TlsFailure::Untrusted),
        error => assert!(matches!(error, BrokerError::InvalidTls { .. }), "{error:?}"),
    }

    let by_address = site.node.tls_url("guest:guest", "127.0.0.1");
    assert_eq!(
        failure(builder(site.trusted()), &by_address).await,
        TlsFailure::WrongName
    );
}

#[tokio::test]
async fn a_client_certificate_of_an_unknown_authority_is_refused() {
    let site = site().await;
    let Identity { chain, key } = Authority::new().unwrap().client("shop").unwrap();
    let stranger = builder(site.trusted().identity_pem(chain, key));
    assert_eq!(
        failure(stranger, &site.url()).await,
        TlsFailure::ClientCertificate
    );
}

#[tokio::test]
async fn a_client_without_a_required_certificate_is_refused() {
    for (versions, without) in [
        ("", TlsFailure::ClientCertificate),
        ("ssl_options.versions.1 = tlsv1.2\n", TlsFailure::Handshake),
    ] {
        let site = Site::start(&format!("ssl_options.fail_if_no_peer_cert = true\n{versions}")).await;
        assert_eq!(failure(builder(site.trusted()), &site.url()).await, without);
        let known = builder(site.known_as("shop"))
            .address(site.url())
            .connect()
            .await
            .unwrap();
        known.close().await;
        let Identity { chain, key } = Authority::new().unwrap().client("shop").unwrap();
        let stranger = builder(site.trusted().identity_pem(chain, key));
        assert_eq!(
            failure(stranger, &site.url()).await,
            TlsFailure::ClientCertificate
        );
        site.node.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_broker_that_speaks_tls_and_then_says_nothing_is_given_up_in_time_and_its_socket_is_closed() {
    let authority = Authority::new().unwrap();
    let acceptor = authority.server(&["localhost"]).unwrap().acceptor().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqps://localhost:{}", listener.local_addr().unwrap().port());
    let silent = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut heard = Vec::new();
        // The socket is cut, without a goodbye in TLS.
        let end = stream.read_to_end(&mut heard).await.map_err(|error| error.kind());
        (heard, end)
    };
    // The handle's other connection is not even accepted.
    let tls = Tls::new().ca_certificate_pem(authority.pem());
    let attempt = builder(tls).connect_timeout(Duration::from_secs(5));
    let (error, (heard, end)) = tokio::join!(refusal(attempt, &url), soon("the socket is closed", silent));
    assert!(matches!(error, BrokerError::Unresponsive { .. }), "{error:?}");
    assert_eq!(heard, b"AMQP\x00\x00\x09\x01");
    assert_eq!(end, Err(ErrorKind::UnexpectedEof));
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_not_trusted() {
    let authority = Authority::new().unwrap();
    let acceptor = authority.expired_server("localhost").unwrap().acceptor().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqps://localhost:{}", listener.local_addr().unwrap().port());
    let serving = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            assert!(acceptor.accept(stream).await.is_err(), "the client accepts it");
        }
    };
    let failed = tokio::select! {
        failed = failure(builder(Tls::new().ca_certificate_pem(authority.pem())), &url) => failed,
        () = serving => unreachable!("it serves for ever"),
    };
    assert_eq!(failed, TlsFailure::OutOfDate);
}

#[tokio::test]
async fn the_wrong_port_is_called_that() {
    let site = site().await;
    let plain_port = site.node.url().replace("amqp://", "amqps://");
    assert_eq!(
        failure(builder(site.trusted()), &plain_port).await,
        TlsFailure::NotTls
    );
    let tls_port = site.url().replace("amqps://", "amqp://");
    assert_eq!(failure(Broker::builder(), &tls_port).await, TlsFailure::NotPlain);
}

#[tokio::test]
async fn a_port_that_says_nothing_is_given_up_in_time() {
    let site = site().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "amqps://alice:s3cret@localhost:{}",
        silent.local_addr().unwrap().port()
    );
    let limit = Duration::from_millis(300);
    let error = refusal(builder(site.trusted()).connect_timeout(limit), &url).await;
    assert!(matches!(error, BrokerError::Unresponsive { .. }), "{error:?}");
}

#[tokio::test]
async fn an_invalid_certificate_or_key_is_refused_at_once_and_not_shown() {
    let authority = Authority::new().unwrap();
    let Identity { chain, key } = authority.client("shop").unwrap();
    let tls = || Tls::new().ca_certificate_pem(authority.pem());

    assert!(unusable(Tls::new().ca_certificate_pem("s3cret")).contains("no CA certificate"));
    assert!(unusable(Tls::new().ca_certificate_pem(key.clone())).contains("no CA certificate"));
    assert!(unusable(tls().identity_pem("s3cret", key.clone())).contains("no client certificate"));
    let no_key = unusable(tls().identity_pem(chain.clone(), "-----BEGIN s3cret"));
    assert!(
        no_key.contains("no private key") && !no_key.contains("s3cret"),
        "{no_key}"
    );
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert!(unusable(tls().identity_pem(chain.clone(), encrypted)).contains("unencrypted"));
    let others = authority.client("shop").unwrap().key;
    assert!(unusable(tls().identity_pem(chain.clone(), others)).contains("do not match"));

    let shown = format!("{:?}", builder(tls().identity_pem(chain.clone(), key.clone())));
    assert!(!shown.contains("BEGIN"), "{shown}");
    builder(tls().identity_pem(chain, key))
        .address("amqps://localhost:1")
        .lazy()
        .unwrap();
}

#[tokio::test]
async fn tls_options_are_never_left_out_silently() {
    let builder = builder(site().await.trusted());
    let error = builder
        .addresses(["amqps://localhost", "amqp://localhost"])
        .lazy()
        .unwrap_err();
    assert!(error.to_string().contains("write amqps://"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_a_login_and_its_user_is_known_to_the_worker() {
    let site = site().await;
    // Without a password: nobody can log in by one.
    site.node
        .add_user("shop", "none", Permissions::ALL)
        .await
        .unwrap();
    site.node.ctl(&["clear_password", "shop"]).await.unwrap();
    let external = |user: &str| {
        let url = site.node.tls_url(user, "localhost");
        format!("{}?auth_mechanism=external", url.replace("://@", "://"))
    };

    let queue = unique("external");
    let worker = builder(site.known_as("shop"))
        .address(external(""))
        .connect()
        .await
        .unwrap();
    let server = serve(&worker, &queue).await;
    let caller = builder(site.known_as("shop"))
        .send_user_id(true)
        .address(external("shop"))
        .connect()
        .await
        .unwrap();
    let client = GuestbookClient::builder(&caller).queue(&queue).build();
    assert_eq!(
        soon("the call ends", client.who_am_i()).await.unwrap().as_deref(),
        Some("shop")
    );
    caller.close().await;
    server.stop().await.unwrap();
    worker.close().await;

    // Only the broker knows who that is: to send it, the address has to say it.
    let error = refusal(builder(site.known_as("shop")).send_user_id(true), &external("")).await;
    assert!(error.to_string().contains("write amqps://USER@host"), "{error}");
    let error = refusal(builder(site.trusted()), &external("shop")).await;
    assert!(error.to_string().contains("Tls::identity_pem"), "{error}");
    // A certificate of nobody whom the broker knows.
    let error = refusal(builder(site.known_as("nobody")), &external("nobody")).await;
    assert!(
        Chain(&error).to_string().contains("ACCESS_REFUSED"),
        "{}",
        Chain(&error)
    );
}

#[tokio::test]
async fn a_tls_connection_that_is_cut_heals_itself() {
    let site = site().await;
    let queue = unique("cut");
    let proxy = Proxy::start(&site.url()).await.unwrap();
    let through_proxy = proxy.url().replace("127.0.0.1", "localhost");
    let worker = builder(site.trusted())
        .address(&through_proxy)
        .connect()
        .await
        .unwrap();
    let server = serve(&worker, &queue).await;
    let caller = builder(site.trusted())
        .address(&through_proxy)
        .connect()
        .await
        .unwrap();
    let client = GuestbookClient::builder(&caller).queue(&queue).build();
    soon("a call ends", client.who_am_i()).await.unwrap();

    for _ in 0..3 {
        let mut changes = caller.status_changes();
        assert!(proxy.reset(Target::All).await >= 4);
        let down = async { while changes.next().await.is_some_and(|status| status.is_ready()) {} };
        soon("the caller sees that it is down", down).await;
        soon("a call ends", client.who_am_i()).await.unwrap();
    }
    soon("the caller closes", caller.close()).await;
    soon("the worker stops", server.stop()).await.unwrap();
    soon("the worker closes", worker.close()).await;
}

/// Files for the variables that name them, as long as the folder is there.
fn files(folder: &TempDir, authority: &str, identity: &Identity) -> [(&'static str, String); 3] {
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().expect("a path that is text").to_owned()
    };
    [
        ("RPC_RUNTIME_TLS_CA_FILE", file("ca.pem", authority)),
        (
            "RPC_RUNTIME_TLS_CERTIFICATE_FILE",
            file("client.pem", &identity.chain),
        ),
        ("RPC_RUNTIME_TLS_KEY_FILE", file("client.key", &identity.key)),
    ]
}

/// What `.ci/run` checks of the other examples, which need no broker.
#[tokio::test]
async fn the_example_prints_the_documented_output() {
    let site = site().await;
    site.node
        .add_user("cashier", "none", Permissions::ALL)
        .await
        .unwrap();
    let folder = TempDir::new().unwrap();
    let cashier = site.authority.client("cashier").unwrap();
    let url = site.node.tls_url("cashier", "localhost");
    let mut example = programs::example("tls").await;
    example
        .env("AMQP_URL", format!("{url}?auth_mechanism=external"))
        .envs(files(&folder, site.authority.pem(), &cashier));

    let output = programs::run(&mut example).await;
    let (printed, told) = (programs::text(&output.stdout), programs::text(&output.stderr));
    assert_eq!(
        printed, "the worker knows its caller as cashier\nrefused: cashier may not make refunds\n",
        "{told}"
    );
    assert!(output.status.success(), "{told}");
}

#[tokio::test]
async fn the_environment_can_say_all_of_it() {
    let site = site().await;
    site.node
        .add_user("till", "none", Permissions::ALL)
        .await
        .unwrap();
    let queue = unique("environment");
    let worker = builder(site.trusted())
        .address(site.url())
        .connect()
        .await
        .unwrap();
    let server = serve(&worker, &queue).await;

    let folder = TempDir::new().unwrap();
    let till = site.authority.client("till").unwrap();
    let url = site.node.tls_url("till", "localhost");
    let variables = [
        (
            "AMQP_URL",
            format!("amqps://till@localhost:1?auth_mechanism=external,{url}?auth_mechanism=external"),
        ),
        ("RPC_RUNTIME_SEND_USER_ID", "true".to_owned()),
        ("RPC_RUNTIME_REPLY_QUEUE", "exclusive".to_owned()),
    ];
    let files = files(&folder, site.authority.pem(), &till);
    let variables = variables
        .into_iter()
        .chain(files)
        .map(|(name, value)| (name.to_owned(), value));
    let configured = BrokerBuilder::from_vars(variables).unwrap();
    let caller = configured.connect().await.unwrap();
    let client = GuestbookClient::builder(&caller).queue(&queue).build();
    assert_eq!(
        soon("the call ends", client.who_am_i()).await.unwrap().as_deref(),
        Some("till")
    );
    let queues = site
        .node
        .ctl(&["list_queues", "--no-table-headers", "name"])
        .await
        .unwrap();
    assert!(queues.contains("amq.gen-"), "{queues}");
    caller.close().await;
    server.stop().await.unwrap();
    worker.close().await;
}

//! What RabbitMQ must permit.

use rpc_runtime::{Broker, BrokerError, CallError, Executed};
use rpc_tests::gate::{SOON, soon};
use rpc_tests::log::Log;
use rpc_tests::rabbit::{Permissions, Vhost};
use rpc_tests::until;
use tracing::Level;

use super::{Part, client, start, until_reached};

/// A worker that takes part in broadcasts, and no more; see the table in `docs/production.md`.
const WORKER: Permissions<'_> = Permissions {
    configure: "^(cache([.]batch)?$|rpc[.]control([.]|$))",
    write: "^(amq[.]default$|rpc[.]control[.])",
    read: "^(cache([.]batch)?$|rpc[.]control([.]|$))",
};

/// A worker that cannot use the control exchange.
const DEAF_WORKER: Permissions<'_> = Permissions {
    configure: "^cache([.]batch)?$",
    write: "^amq[.]default$",
    read: "^cache([.]batch)?$",
};

/// A caller of broadcasts, and no more.
const CALLER: Permissions<'_> = Permissions {
    configure: "^amq[.]gen-",
    write: "^rpc[.]control$",
    read: "^amq[.]gen-",
};

/// A caller of everything else.
const OTHER_CALLER: Permissions<'_> = Permissions {
    configure: "^rpc[.]reply[.]",
    write: "^amq[.]default$",
    read: "^rpc[.]reply[.]",
};

async fn handle_of(vhost: &Vhost, may: Permissions<'_>) -> Broker {
    Broker::connect(&vhost.url_of_user(may).await).await.unwrap()
}

#[tokio::test]
async fn the_least_permissions_are_enough_to_send_and_to_answer_broadcasts() {
    let vhost = Vhost::new().await;
    let part = Part::new("permitted");
    let server = start(&handle_of(&vhost, WORKER).await, "cache", &part).await;
    let caller = handle_of(&vhost, CALLER).await;
    until_reached(&caller, "cache", &part).await;
    let cache = client(&caller, "cache");
    let gathered = cache
        .count("a")
        .expect_workers(1)
        .send()
        .await
        .unwrap()
        .collect()
        .await;
    assert_eq!(gathered.missing, Some(0));
    soon("it is confirmed", cache.clear()).await.unwrap();
    server.stop().await.unwrap();
    assert_eq!(part.runs(), 2);
}

#[tokio::test]
async fn without_permissions_everything_but_broadcasts_works() {
    let (log, _guard) = Log::start(Level::INFO);
    let vhost = Vhost::new().await;
    let deaf = start(&handle_of(&vhost, DEAF_WORKER).await, "cache", &Part::new("deaf")).await;
    let lines = async || Ok(log.lines_about("serving without broadcasts and discovery").len() == 1);
    until("it says what it lacks", SOON, lines).await.unwrap();
    let cache = client(&handle_of(&vhost, OTHER_CALLER).await, "cache");
    assert_eq!(soon("it serves", cache.get("a")).await.unwrap(), "a");
    let refused = soon("it fails", cache.count("a").send()).await.unwrap_err();
    assert!(
        matches!(
            &refused,
            CallError::Broker {
                executed: Executed::No,
                ..
            }
        ),
        "{refused:?}"
    );
    // A worker that nobody can reach does not count as one.
    let cache = client(&handle_of(&vhost, CALLER).await, "cache");
    let none = soon("it fails", cache.count("a").send()).await.unwrap_err();
    assert!(matches!(none, CallError::NoWorkers { .. }), "{none:?}");
    let user_without_exchange = client(&handle_of(&vhost, OTHER_CALLER).await, "cache");
    let refused = soon("it fails", user_without_exchange.clear()).await.unwrap_err();
    let CallError::Broker { source, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert!(
        matches!(
            source,
            BrokerError::Exchange {
                action: "publish to",
                ..
            }
        ),
        "{source:?}"
    );
    deaf.stop().await.unwrap();
}

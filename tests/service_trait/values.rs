//! Values that a codec cannot carry, or that it could get wrong.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use rpc_runtime::{Broker, CallError, Codec, Executed, FaultCode, RunningServer, Server, service};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Reading {
    celsius: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Peer {
    Host { addr: IpAddr },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Site {
    name: String,
    #[serde(flatten)]
    peer: Peer,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Target {
    Peer(Peer),
    Addrs(BTreeMap<String, IpAddr>),
}

#[service]
trait Values {
    async fn reading(&self, reading: Reading) -> Reading;
    async fn divide(&self, by: f64) -> Result<f64, Reading>;
    async fn sites(&self, sites: Vec<Site>, target: Target) -> (Vec<Site>, Target);
    async fn wide(&self, unsigned: u128, signed: i128) -> (u128, i128);
}

struct Station;

impl Values for Station {
    async fn reading(&self, reading: Reading) -> Reading {
        match reading.celsius {
            Some(_) => reading,
            None => Reading {
                celsius: Some(f64::NAN),
            },
        }
    }

    async fn divide(&self, by: f64) -> Result<f64, Reading> {
        match by < 0.0 {
            true => Err(Reading {
                celsius: Some(f64::NEG_INFINITY),
            }),
            false => Ok(1.0 / by),
        }
    }

    async fn sites(&self, sites: Vec<Site>, target: Target) -> (Vec<Site>, Target) {
        (sites, target)
    }

    async fn wide(&self, unsigned: u128, signed: i128) -> (u128, i128) {
        (unsigned, signed)
    }
}

/// A client, and the worker that serves it.
async fn client(codec: Codec) -> (ValuesClient, RunningServer) {
    let broker = Broker::in_process();
    let server = Server::new(&broker).serve(ValuesServer::new(Station)).start();
    let client = ValuesClient::builder(&broker).codec(codec).build();
    (client, server.await.unwrap())
}

const STRUCTURED: [Codec; 2] = [Codec::MessagePack, Codec::Json];

#[tokio::test]
async fn json_carries_no_float_that_is_not_finite() {
    let (client, _server) = client(Codec::Json).await;
    for celsius in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let celsius = Some(celsius);
        let error = client.reading(Reading { celsius }).await.unwrap_err();
        assert!(matches!(error, CallError::Encode(_)), "{error:?}");
        assert_eq!(error.executed(), Executed::No);
    }
    // A result, and an error.
    is_unanswerable(client.reading(Reading { celsius: None }).await);
    is_unanswerable(client.divide(0.0).await);
    is_unanswerable(client.divide(-1.0).await);
}

fn is_unanswerable<T: Debug, E: Debug>(answer: Result<T, CallError<E>>) {
    let error = answer.unwrap_err();
    assert_eq!(error.executed(), Executed::Yes);
    match error {
        CallError::Fault(fault) => assert_eq!(fault.code, FaultCode::Unanswerable),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn message_pack_carries_all_floats() {
    let (client, _server) = client(Codec::MessagePack).await;
    let reading = client.reading(Reading { celsius: None }).await.unwrap();
    assert!(reading.celsius.unwrap().is_nan());
    assert_eq!(client.divide(0.0).await.unwrap(), f64::INFINITY);
    match client.divide(-1.0).await.unwrap_err() {
        CallError::Service(Reading { celsius }) => assert_eq!(celsius, Some(f64::NEG_INFINITY)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn types_with_a_compact_form_travel_in_tagged_and_flattened_types() {
    let peer = Peer::Host {
        addr: IpAddr::from([10, 0, 0, 1]),
    };
    let site = Site {
        name: "north".into(),
        peer: peer.clone(),
    };
    for codec in STRUCTURED {
        let (client, _server) = client(codec).await;
        for target in [
            Target::Peer(peer.clone()),
            Target::Addrs([("a".into(), IpAddr::from([0; 16]))].into()),
        ] {
            let sites = vec![site.clone(), site.clone()];
            let answer = client.sites(sites.clone(), target.clone()).await;
            assert_eq!(answer.unwrap(), (sites, target), "{codec}");
        }
    }
}

#[tokio::test]
async fn integers_of_128_bits_are_exact() {
    for codec in STRUCTURED {
        let (client, _server) = client(codec).await;
        for (unsigned, signed) in [
            (u128::MAX, i128::MIN),
            (u64::MAX.into(), -1),
            (1 << 64, i128::MAX),
        ] {
            let answer = client.wide(unsigned, signed).await;
            assert_eq!(answer.unwrap(), (unsigned, signed), "{codec}");
        }
    }
}

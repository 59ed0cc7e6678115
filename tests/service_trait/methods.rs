//! What methods may be: how many arguments they take, what they are called, and what they return.

use rpc_runtime::{CallError, ClientBuilder, Codec, ServiceClient, service};
use serde::{Deserialize, Serialize};

use crate::wire::Tap;

#[tokio::test]
async fn no_arguments() {
    #[service]
    trait Clock {
        async fn now(&self) -> u64;
    }

    struct Stopped;

    impl Clock for Stopped {
        async fn now(&self) -> u64 {
            7
        }
    }

    for codec in [Codec::MessagePack, Codec::Json] {
        let (tap, sent) = Tap::new(ClockServer::new(Stopped));
        let clock: ClockClient = ClientBuilder::in_process(tap).codec(codec).build();
        assert_eq!(clock.now().await.unwrap(), 7);
        assert_eq!(sent.take(), "{}");
    }
}

#[tokio::test]
async fn no_result() {
    #[service]
    trait Bell {
        async fn ring(&self, times: u8);
    }

    struct Muted;

    impl Bell for Muted {
        async fn ring(&self, times: u8) {
            assert_eq!(times, 3);
        }
    }

    let bell = BellClient::in_process(Muted);
    let () = bell.ring(3).await.unwrap();
    // The method ran: it says so of another number.
    assert!(matches!(bell.ring(4).await, Err(CallError::Fault(_))));
}

#[tokio::test]
async fn sixteen_arguments() {
    #[service]
    #[allow(clippy::too_many_arguments)]
    trait Crowd {
        async fn all(
            &self,
            a: u8,
            b: u8,
            c: u8,
            d: u8,
            e: u8,
            f: u8,
            g: u8,
            h: u8,
            i: u8,
            j: u8,
            k: u8,
            l: u8,
            m: u8,
            n: u8,
            o: u8,
            p: u8,
        ) -> Vec<u8>;
    }

    struct Gathered;

    #[allow(clippy::too_many_arguments)]
    impl Crowd for Gathered {
        async fn all(
            &self,
            a: u8,
            b: u8,
            c: u8,
            d: u8,
            e: u8,
            f: u8,
            g: u8,
            h: u8,
            i: u8,
            j: u8,
            k: u8,
            l: u8,
            m: u8,
            n: u8,
            o: u8,
            p: u8,
        ) -> Vec<u8> {
            vec![a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
        }
    }

    let (tap, sent) = Tap::new(CrowdServer::new(Gathered));
    let crowd: CrowdClient = ClientBuilder::in_process(tap).build();
    let all = crowd.all(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
    assert_eq!(all.await.unwrap(), (1..=16).collect::<Vec<u8>>());
    let names = r#"{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":9,"j":10,"k":11,"l":12,"m":13,"n":14,"o":15,"p":16}"#;
    assert_eq!(sent.take(), names);
}

#[tokio::test]
async fn a_method_with_a_raw_name() {
    #[service]
    trait Grammar {
        async fn r#type(&self) -> String;
    }

    struct Latin;

    impl Grammar for Latin {
        async fn r#type(&self) -> String {
            "noun".to_owned()
        }
    }

    assert_eq!(GrammarClient::in_process(Latin).r#type().await.unwrap(), "noun");
    // The wire knows nothing of Rust's keywords.
    assert_eq!(GrammarClient::SERVICE.methods[0].name, "type");
}

#[tokio::test]
async fn an_argument_with_a_raw_name() {
    #[service]
    trait Grammar {
        async fn decline(&self, r#type: &str, r#match: u8) -> String;
    }

    struct Latin;

    impl Grammar for Latin {
        async fn decline(&self, r#type: &str, r#match: u8) -> String {
            format!("{type} {match}")
        }
    }

    let (tap, sent) = Tap::new(GrammarServer::new(Latin));
    let grammar: GrammarClient = ClientBuilder::in_process(tap).build();
    assert_eq!(grammar.decline("noun", 1).await.unwrap(), "noun 1");
    assert_eq!(sent.take(), r#"{"type":"noun","match":1}"#);
}

#[tokio::test]
async fn a_trait_with_a_raw_name() {
    #[service]
    #[allow(non_camel_case_types)]
    trait r#loop {
        async fn turn(&self) -> u8;
    }

    struct Endless;

    impl r#loop for Endless {
        async fn turn(&self) -> u8 {
            1
        }
    }

    assert_eq!(loopClient::in_process(Endless).turn().await.unwrap(), 1);
    assert_eq!(
        (loopClient::SERVICE.name, loopClient::SERVICE.queue),
        ("loop", "loop")
    );
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Refused {
    why: String,
}

fn refused() -> Refused {
    Refused {
        why: "closed".to_owned(),
    }
}

/// Calls `give` of a [`Shop`]-like service both ways.
macro_rules! gives {
    ([$($result:tt)+]) => {
        #[service]
        trait Shop {
            async fn give(&self, open: bool) -> $($result)+;
        }

        struct Corner;

        impl Shop for Corner {
            async fn give(&self, open: bool) -> $($result)+ {
                if open { Ok(7) } else { Err(refused()) }
            }
        }

        for codec in [Codec::MessagePack, Codec::Json] {
            let shop: ShopClient = ClientBuilder::in_process(ShopServer::new(Corner)).codec(codec).build();
            assert_eq!(shop.give(true).await.unwrap(), 7_u8);
            match shop.give(false).await {
                Err(CallError::Service(error)) => assert_eq!(error, refused()),
                other => panic!("{other:?}"),
            }
        }
    };
}

#[tokio::test]
async fn a_result() {
    gives!([Result<u8, Refused>]);
}

#[tokio::test]
async fn a_result_by_its_path() {
    gives!([std::result::Result<u8, Refused>]);
}

#[tokio::test]
async fn an_alias_named_result() {
    type Result<T> = std::result::Result<T, Refused>;
    gives!([Result<u8>]);
}

#[tokio::test]
async fn an_alias_named_result_with_a_default_error() {
    type Result<T, E = Refused> = std::result::Result<T, E>;
    gives!([Result<u8>]);
}

#[tokio::test]
async fn an_alias_named_result_without_parameters() {
    type Result = std::result::Result<u8, Refused>;
    gives!([Result]);
}

mod shop {
    pub(super) type Result<T> = std::result::Result<T, super::Refused>;
}

#[tokio::test]
async fn an_alias_named_result_of_another_module() {
    gives!([shop::Result<u8>]);
}

#[tokio::test]
async fn an_alias_named_result_in_a_generic_trait() {
    type Result<T> = std::result::Result<T, Refused>;

    #[service]
    trait Shop<T: Serialize + serde::de::DeserializeOwned + Send + Sync + 'static> {
        async fn swap(&self, what: T, open: bool) -> Result<T>;
    }

    struct Corner;

    impl Shop<String> for Corner {
        async fn swap(&self, what: String, open: bool) -> Result<String> {
            if open { Ok(what) } else { Err(refused()) }
        }
    }

    let shop = ShopClient::<String>::in_process(Corner);
    assert_eq!(shop.swap("a".to_owned(), true).await.unwrap(), "a");
    let error = shop.swap("a".to_owned(), false).await.unwrap_err();
    assert!(matches!(error, CallError::Service(error) if error == refused()));
}

#[tokio::test]
async fn a_result_of_unit() {
    #[service]
    trait Door {
        async fn open(&self, locked: bool) -> Result<(), ()>;
    }

    struct Front;

    impl Door for Front {
        async fn open(&self, locked: bool) -> Result<(), ()> {
            if locked { Err(()) } else { Ok(()) }
        }
    }

    let door = DoorClient::in_process(Front);
    door.open(false).await.unwrap();
    assert!(matches!(door.open(true).await, Err(CallError::Service(()))));
}

#[tokio::test]
async fn a_result_of_bytes() {
    #[service]
    trait Disk {
        async fn read(&self, from: u8) -> Result<Vec<u8>, Refused>;
    }

    struct Full;

    impl Disk for Full {
        async fn read(&self, from: u8) -> Result<Vec<u8>, Refused> {
            Ok((from..=255).collect())
        }
    }

    assert_eq!(
        DiskClient::in_process(Full).read(253).await.unwrap(),
        [253, 254, 255]
    );
}

/// An implementation is a plain `impl` with `async fn`, and holds no attribute: a private `async
/// fn` of it may be called.
#[tokio::test]
async fn an_impl_block_with_plain_async_fns() {
    #[service]
    trait Counter {
        async fn add(&self, number: u8) -> u8;
        async fn add_twice(&self, number: u8) -> u8;
    }

    #[derive(Default)]
    struct Memory(std::sync::atomic::AtomicU8);

    impl Memory {
        async fn sum(&self, number: u8) -> u8 {
            tokio::task::yield_now().await;
            self.0.fetch_add(number, std::sync::atomic::Ordering::Relaxed) + number
        }
    }

    impl Counter for Memory {
        async fn add(&self, number: u8) -> u8 {
            self.sum(number).await
        }

        async fn add_twice(&self, number: u8) -> u8 {
            self.add(number).await;
            self.add(number).await
        }
    }

    let counter = CounterClient::in_process(Memory::default());
    assert_eq!(counter.add(1).await.unwrap(), 1);
    assert_eq!(counter.add_twice(2).await.unwrap(), 5);
}

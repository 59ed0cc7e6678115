//! What the user writes on a trait or a method holds for all that is generated from it.
//!
//! `expect` is the witness: it warns where the lint that it names is not there, and warnings are
//! errors in CI.

use rpc_runtime::{ServiceClient, service};

#[tokio::test]
async fn cfg_of_a_method() {
    #[service]
    trait Conditional {
        #[cfg(any())]
        async fn never(&self, #[serde(default)] missing: NoSuchType) -> NoSuchType {
            self.nor_this()
        }
        #[cfg(not(any()))]
        async fn always(&self) -> u8;
    }

    struct Here;

    impl Conditional for Here {
        async fn always(&self) -> u8 {
            1
        }
    }

    assert_eq!(ConditionalClient::in_process(Here).always().await.unwrap(), 1);
    assert_eq!(ConditionalClient::SERVICE.methods.len(), 1);
    assert_eq!(ConditionalClient::SERVICE.methods[0].name, "always");
}

#[tokio::test]
async fn cfg_of_two_versions_of_a_method() {
    #[service]
    trait Conditional {
        #[cfg(unix)]
        #[rpc(default)]
        async fn system(&self, #[serde(default)] name: &str) -> String;
        #[cfg(not(unix))]
        #[rpc(default)]
        async fn system(&self, drive: char) -> u8;
    }

    struct Here;

    impl Conditional for Here {
        #[cfg(unix)]
        async fn system(&self, name: &str) -> String {
            name.to_owned()
        }

        #[cfg(not(unix))]
        async fn system(&self, drive: char) -> u8 {
            drive as u8
        }
    }

    let conditional = ConditionalClient::in_process(Here);
    #[cfg(unix)]
    assert_eq!(conditional.system("linux").await.unwrap(), "linux");
    #[cfg(not(unix))]
    assert_eq!(conditional.system('c').await.unwrap(), b'c');
}

#[tokio::test]
async fn several_cfgs_of_a_method() {
    #[service]
    trait Conditional {
        #[cfg(not(any()))]
        #[cfg(any())]
        async fn never(&self) -> NoSuchType;
        #[cfg(any(unix, windows))]
        #[cfg(not(any()))]
        async fn always(&self) -> u8;
    }

    struct Here;

    impl Conditional for Here {
        async fn always(&self) -> u8 {
            1
        }
    }

    assert_eq!(ConditionalClient::in_process(Here).always().await.unwrap(), 1);
}

#[test]
fn cfg_of_the_trait() {
    #[service]
    #[cfg(any())]
    trait Absent {
        async fn never(&self, missing: NoSuchType) -> NoSuchType;
    }

    #[cfg(any())]
    #[service]
    trait Absent {
        async fn never(&self, missing: NoSuchType) -> NoSuchType;
    }

    // Neither is there: the names are free.
    #[allow(dead_code)]
    struct AbsentClient;
    #[allow(dead_code)]
    struct AbsentServer;
    #[allow(dead_code)]
    trait Absent {}
}

#[test]
fn docs() {
    /// Keeps notes.
    ///
    ///     indented
    #[service]
    trait Notes {
        /// Reads one,
        /// whatever it is.
        async fn read(&self);
        #[doc = "Counts them."]
        #[doc(alias = "number")]
        async fn count(&self);
        async fn silent(&self);
    }

    let service = NotesClient::SERVICE;
    assert_eq!(service.docs, "Keeps notes.\n\n    indented");
    let docs: Vec<_> = service.methods.iter().map(|method| method.docs).collect();
    assert_eq!(docs, ["Reads one,\nwhatever it is.", "Counts them.", ""]);
}

mod deprecated_method {
    use rpc_runtime::service;

    #[service]
    pub(super) trait Notes {
        #[deprecated = "use `read`"]
        async fn fetch(&self, #[serde(default)] name: &str) -> String;
        #[deprecated(since = "2.0.0", note = "use `read`")]
        async fn get(&self) -> String {
            "got".to_owned()
        }
    }

    pub(super) struct Desk;

    // Implementing what is deprecated is no use of it.
    impl Notes for Desk {
        async fn fetch(&self, name: &str) -> String {
            name.to_owned()
        }
    }
}

#[tokio::test]
async fn deprecated_of_a_method_reaches_its_call() {
    let notes = deprecated_method::NotesClient::in_process(deprecated_method::Desk);
    #[expect(deprecated)]
    let fetched = notes.fetch("a");
    assert_eq!(fetched.await.unwrap(), "a");
    #[expect(deprecated)]
    let got = notes.get();
    assert_eq!(got.await.unwrap(), "got");
}

mod deprecated_trait {
    use rpc_runtime::service;

    #[deprecated = "use something else"]
    #[service]
    pub(super) trait Notes {
        async fn read(&self, #[serde(default)] name: &str) -> Result<String, String>;
    }

    pub(super) struct Desk;

    #[expect(deprecated)]
    impl Notes for Desk {
        async fn read(&self, name: &str) -> Result<String, String> {
            Ok(name.to_owned())
        }
    }
}

#[tokio::test]
async fn deprecated_of_the_trait_reaches_its_client() {
    #[expect(deprecated)]
    let notes = deprecated_trait::NotesClient::in_process(deprecated_trait::Desk);
    assert_eq!(notes.read("a").await.unwrap(), "a");
}

#[test]
fn deprecated_of_the_trait_reaches_its_server() {
    #[expect(deprecated)]
    let _ = deprecated_trait::NotesServer::new(deprecated_trait::Desk);
}

/// A call has to be awaited with or without the attribute. That the client's method has it too,
/// only the snapshot `attributes_of_the_user` of `rpc-macros` shows.
#[tokio::test]
async fn must_use_of_a_method() {
    #[service]
    trait Counter {
        #[must_use = "counting takes time"]
        async fn count(&self) -> u8;
    }

    struct Seven;

    impl Counter for Seven {
        async fn count(&self) -> u8 {
            7
        }
    }

    let counter = CounterClient::in_process(Seven);
    #[expect(unused_must_use)]
    {
        counter.count();
    }
    assert_eq!(counter.count().await.unwrap(), 7);
}

#[tokio::test]
async fn allow_of_a_method() {
    #[service]
    trait Camel {
        #[allow(non_snake_case)]
        async fn theName(&self, theArgument: u8, #[serde(default)] another: u8) -> u8;
    }

    struct Hump;

    impl Camel for Hump {
        #[allow(non_snake_case)]
        async fn theName(&self, theArgument: u8, another: u8) -> u8 {
            theArgument + another
        }
    }

    assert_eq!(CamelClient::in_process(Hump).theName(1, 2).await.unwrap(), 3);
}

#[tokio::test]
async fn expect_of_a_method() {
    #[service]
    trait Camel {
        #[expect(non_snake_case, reason = "fulfilled once, by what the user wrote")]
        async fn theName(&self, theArgument: u8) -> u8;
    }

    struct Hump;

    impl Camel for Hump {
        #[allow(non_snake_case)]
        async fn theName(&self, theArgument: u8) -> u8 {
            theArgument
        }
    }

    assert_eq!(CamelClient::in_process(Hump).theName(1).await.unwrap(), 1);
}

#[tokio::test]
async fn allow_of_the_trait() {
    #[service]
    #[allow(non_camel_case_types, non_snake_case)]
    trait camel_case {
        async fn theName(&self, theArgument: u8) -> u8;
    }

    struct Hump;

    #[allow(non_snake_case)]
    impl camel_case for Hump {
        async fn theName(&self, theArgument: u8) -> u8 {
            theArgument
        }
    }

    assert_eq!(camel_caseClient::in_process(Hump).theName(1).await.unwrap(), 1);
}

#[tokio::test]
async fn expect_of_the_trait() {
    #[service]
    #[expect(non_camel_case_types)]
    trait camel_case {
        async fn name(&self) -> u8;
    }

    struct Hump;

    impl camel_case for Hump {
        async fn name(&self) -> u8 {
            1
        }
    }

    assert_eq!(camel_caseClient::in_process(Hump).name().await.unwrap(), 1);
}

#[tokio::test]
async fn an_argument_that_the_default_body_does_not_use() {
    #[service]
    trait Ignorant {
        #[deny(unused_variables)]
        async fn ignore(&self, what: u8) -> u8 {
            7
        }
    }

    struct Bliss;

    impl Ignorant for Bliss {}

    assert_eq!(IgnorantClient::in_process(Bliss).ignore(1).await.unwrap(), 7);
}

/// Attributes as macros and conditions make them.
mod out_of_macros {
    use rpc_runtime::{ServiceClient as _, service};

    macro_rules! documented {
        ($(#[$meta:meta])* $name:ident { $($(#[$method_meta:meta])* $method:ident;)* }) => {
            $(#[$meta])*
            pub(super) trait $name {
                $($(#[$method_meta])* async fn $method(&self) -> u8;)*
            }
        };
    }

    documented! {
        #[doc = concat!("Counts ", "things.")]
        ///
        /// Slowly.
        #[doc(hidden)]
        #[service(queue = "slow")]
        Slow {
            /// One.
            #[doc = concat!("Or ", stringify!(two), ".")]
            #[rpc(idempotent, timeout = "2s")]
            one;
            #[cfg_attr(all(), cfg(any()))]
            never;
            #[cfg_attr(all(), cfg(all()), must_use, deprecated)]
            old;
        }
    }

    #[test]
    fn documentation_out_of_macros_is_described() {
        let service = SlowClient::SERVICE;
        assert_eq!(
            (service.queue, service.docs),
            ("slow", "Counts things.\n\nSlowly.")
        );
        let names: Vec<_> = service.methods.iter().map(|method| method.name).collect();
        assert_eq!(names, ["one", "old"]);
        assert_eq!(service.methods[0].docs, "One.\nOr two.");
        assert!(service.methods[0].is_idempotent);
        assert_eq!(
            service.methods[0].timeout,
            Some(std::time::Duration::from_secs(2))
        );
    }
}

//! Where a new project gets rpc-runtime from.

use std::path::Path;

use crate::failure::Failure;

/// The version of rpc-runtime, which is also that of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The oldest Rust that rpc-runtime supports, which is also that of this program.
pub(super) const RUST_VERSION: &str = env!("CARGO_PKG_RUST_VERSION");

pub(super) enum Runtime {
    /// The release with the version of this program, from crates.io.
    Released,
    /// The absolute path of a checkout. It means the same in TOML, YAML and a Dockerfile.
    Checkout(String),
}

impl Runtime {
    /// Checks that this folder is a checkout whose path can be written in the project's files.
    pub(super) fn checkout(folder: &Path) -> Result<Self, Failure> {
        let manifest = folder.join("rpc-runtime").join("Cargo.toml");
        if !manifest.is_file() {
            return Err(Failure::usage(
                format!("{} is not a checkout of rpc-runtime", folder.display()),
                "it has no file rpc-runtime/Cargo.toml: name the folder of the whole repository",
            ));
        }
        let absolute = folder.canonicalize().map_err(|source| Failure::File {
            path: folder.to_owned(),
            source,
        })?;
        match absolute.to_str().filter(|path| is_plain(path)) {
            Some(path) => Ok(Self::Checkout(path.to_owned())),
            None => Err(Failure::usage(
                format!(
                    "the path {} cannot be written in Cargo.toml, Dockerfile and compose.yaml",
                    absolute.display()
                ),
                "move the checkout to a folder whose path has no control characters, quotes, `\\` or `$`",
            )),
        }
    }

    /// Returns the value of the dependency in Cargo.toml.
    pub(super) fn dependency(&self) -> String {
        match self {
            Self::Released => format!("\"{VERSION}\""),
            Self::Checkout(path) => format!("{{ path = \"{path}/rpc-runtime\" }}"),
        }
    }

    /// Returns the lines of the Dockerfile that copy the checkout to the path that Cargo.toml
    /// names. Empty for a release.
    pub(super) fn in_image(&self) -> String {
        match self {
            Self::Released => String::new(),
            Self::Checkout(path) => format!(
                "# The checkout of rpc-runtime, which compose.yaml names, at the path that Cargo.toml names.\n\
                 COPY --from=rpc-runtime [\".\", \"{path}\"]"
            ),
        }
    }

    /// Returns the lines of the compose file that give the checkout to the Dockerfile. Empty for a
    /// release.
    pub(super) fn build_context(&self) -> String {
        match self {
            Self::Released => String::new(),
            Self::Checkout(path) => format!("      additional_contexts:\n        rpc-runtime: \"{path}\""),
        }
    }
}

/// Whether the path means itself within double quotes in TOML, YAML and a Dockerfile, and Docker
/// substitutes no variables in it.
fn is_plain(path: &str) -> bool {
    !path
        .chars()
        .any(|character| character.is_control() || matches!(character, '"' | '\'' | '\\' | '$'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_runtime_has_the_version_of_the_program() {
        assert_eq!(
            Runtime::Released.dependency(),
            format!("\"{}\"", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(
            Runtime::Released.in_image() + &Runtime::Released.build_context(),
            ""
        );
    }

    #[test]
    fn a_checkout_is_named_by_its_absolute_path() {
        let parent = tempfile::tempdir().unwrap();
        let crate_folder = parent.path().join("a check out/rpc-runtime");
        std::fs::create_dir_all(&crate_folder).unwrap();
        let checkout = crate_folder.join("..");
        assert!(matches!(Runtime::checkout(&checkout), Err(Failure::Usage { .. })));

        std::fs::write(crate_folder.join("Cargo.toml"), "").unwrap();
        let Ok(Runtime::Checkout(path)) = Runtime::checkout(&checkout) else {
            panic!("it is a checkout");
        };
        let expected = parent.path().canonicalize().unwrap().join("a check out");
        assert_eq!(Path::new(&path), expected);
    }

    #[test]
    fn a_path_that_would_mean_something_else_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let crate_folder = parent.path().join("$HOME/rpc-runtime");
        std::fs::create_dir_all(&crate_folder).unwrap();
        std::fs::write(crate_folder.join("Cargo.toml"), "").unwrap();
        let refused = Runtime::checkout(&parent.path().join("$HOME"));
        assert!(matches!(refused, Err(Failure::Usage { .. })));
    }
}

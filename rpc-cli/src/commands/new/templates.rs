//! The files of a new project, made from the files in `templates/new`.
//!
//! The templates of manifests have another name, because cargo would take their folder for a
//! package of its own and leave it out of ours. Those of ignore files would take effect here.

use super::name::ProjectName;
use super::runtime::{RUST_VERSION, Runtime};

/// A file of a new project.
#[derive(Debug)]
pub(super) struct NewFile {
    /// The path within the project, with `/` between names.
    pub(super) path: &'static str,
    pub(super) text: String,
}

/// Pairs the paths of files in a project with the contents of their templates.
macro_rules! templates {
    ($($path:literal: $template:literal,)*) => {
        &[$(($path, include_str!(concat!("../../../templates/new/", $template)))),*]
    };
}

const TEMPLATES: &[(&str, &str)] = templates! {
    ".dockerignore": "dockerignore",
    ".gitignore": "gitignore",
    "Cargo.toml": "Cargo.toml.template",
    "Dockerfile": "Dockerfile",
    "README.md": "README.md.template",
    "api/Cargo.toml": "api/Cargo.toml.template",
    "api/src/lib.rs": "api/src/lib.rs",
    "caller/Cargo.toml": "caller/Cargo.toml.template",
    "caller/src/main.rs": "caller/src/main.rs",
    "compose.yaml": "compose.yaml",
    "worker/Cargo.toml": "worker/Cargo.toml.template",
    "worker/src/lib.rs": "worker/src/lib.rs",
    "worker/src/main.rs": "worker/src/main.rs",
    "worker/tests/without_a_broker.rs": "worker/tests/without_a_broker.rs",
};

/// Returns the files of a project.
pub(super) fn files(name: &ProjectName, runtime: &Runtime) -> Vec<NewFile> {
    let values = [
        ("{{name}}", name.as_str().to_owned()),
        ("{{crate}}", name.identifier()),
        ("{{rust_version}}", RUST_VERSION.to_owned()),
        ("{{runtime}}", runtime.dependency()),
        ("{{runtime_in_image}}", runtime.in_image()),
        ("{{runtime_context}}", runtime.build_context()),
    ];
    let filled = TEMPLATES.iter().map(|(path, template)| NewFile {
        path,
        text: fill(template, &values),
    });
    filled.collect()
}

/// Replaces the placeholders. A line that consists of a placeholder disappears if its value is
/// empty.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut text = template.to_owned();
    for (placeholder, value) in values {
        if value.is_empty() {
            text = text.replace(&format!("{placeholder}\n"), "");
        }
        text = text.replace(placeholder, value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files_of(runtime: &Runtime) -> Vec<NewFile> {
        files(&"user-directory".parse().unwrap(), runtime)
    }

    #[test]
    fn no_placeholder_is_left() {
        for runtime in [Runtime::Released, Runtime::Checkout("/src/rpc".to_owned())] {
            for file in files_of(&runtime) {
                let left = file
                    .text
                    .lines()
                    .find(|line| line.contains("{{") || line.contains("}}"));
                assert_eq!(left, None, "{}", file.path);
                assert!(
                    file.text.ends_with('\n') && !file.text.ends_with("\n\n"),
                    "{}",
                    file.path
                );
            }
        }
    }

    #[test]
    fn only_a_checkout_is_copied_into_the_image() {
        let text = |runtime, path| {
            let files = files_of(&runtime);
            files.into_iter().find(|file| file.path == path).unwrap().text
        };
        let checkout = || Runtime::Checkout("/src/rpc".to_owned());
        assert!(text(Runtime::Released, "Dockerfile").contains("WORKDIR /project\n# Cargo.lock"));
        assert!(
            text(checkout(), "Dockerfile")
                .contains("\nCOPY --from=rpc-runtime [\".\", \"/src/rpc\"]\n# Cargo.lock")
        );
        assert!(text(Runtime::Released, "compose.yaml").contains("context: .\n    environment:"));
        assert!(
            text(checkout(), "compose.yaml")
                .contains("      additional_contexts:\n        rpc-runtime: \"/src/rpc\"\n    environment:")
        );
    }

    /// Comments and code have at most 100 columns with names of ordinary length, as in rustfmt's
    /// default style.
    #[test]
    fn lines_fit_into_a_window() {
        for file in files_of(&Runtime::Released) {
            let limit = if file.path.ends_with(".md") { 120 } else { 100 };
            let long = file.text.lines().find(|line| line.chars().count() > limit);
            assert_eq!(long, None, "{}", file.path);
        }
    }
}

//! `rpc new`.

mod folder;
mod name;
mod runtime;
mod templates;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use self::folder::NewFolder;
use self::name::ProjectName;
use self::runtime::Runtime;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::text::join_lines;

/// Creates a project: a service with its worker, a caller, and tests without a broker.
///
/// The project is a cargo workspace with three packages: NAME-api with the service trait,
/// NAME-worker and NAME-caller. It has a Dockerfile for the worker, and a compose file that starts
/// it with RabbitMQ. Its README.md has the first commands. Needs no broker.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rpc new user-directory
  rpc new user-directory --path ~/src/directory
  rpc new user-directory --runtime-path ~/src/rpc-runtime    # an unreleased rpc-runtime")]
pub(crate) struct New {
    /// The name of the project and of its queue: lower-case letters, digits, and single `-` or `_`
    /// between them.
    name: ProjectName,

    /// The folder of the project. It must not exist, or be empty. Defaults to NAME in the current
    /// folder.
    #[arg(long, value_name = "FOLDER")]
    path: Option<PathBuf>,

    /// A checkout of the repository of rpc-runtime, to use instead of the release with the version
    /// of this program.
    #[arg(long, value_name = "CHECKOUT")]
    runtime_path: Option<PathBuf>,
}

impl New {
    pub(crate) fn run(&self, output: &Output) -> Result<Outcome, Failure> {
        let runtime = match &self.runtime_path {
            None => Runtime::Released,
            Some(checkout) => Runtime::checkout(checkout)?,
        };
        let files = templates::files(&self.name, &runtime);
        let path = match &self.path {
            None => Path::new(self.name.as_str()),
            Some(path) => path,
        };
        NewFolder::at(path)?.create(&files)?;
        if output.json {
            let files: Vec<_> = files.iter().map(|file| file.path).collect();
            let path = path.display().to_string();
            output.value(&json!({"name": self.name.as_str(), "path": path, "files": files}))?;
        } else {
            output.text(&first_commands(&self.name, path))?;
        }
        Ok(Outcome::Done)
    }
}

/// Returns the message about a new project: where it is, and the first commands to run in it.
fn first_commands(name: &ProjectName, path: &Path) -> String {
    let name = name.as_str();
    let path = path.display().to_string();
    let commands = [
        (format!("cd {}", shell_word(&path)), ""),
        ("cargo test".to_owned(), "needs no RabbitMQ"),
        (
            "docker compose up --detach --wait rabbitmq".to_owned(),
            "or any other RabbitMQ",
        ),
        ("export AMQP_URL=amqp://localhost".to_owned(), ""),
        (format!("cargo run --package {name}-worker"), "until Ctrl-C"),
        (
            format!("cargo run --package {name}-caller -- Ada"),
            "in a second terminal, with the same AMQP_URL",
        ),
    ];
    let commented = commands.iter().filter(|(_, comment)| !comment.is_empty());
    let width = commented
        .map(|(command, _)| command.chars().count())
        .max()
        .unwrap_or(0);
    let lines = commands.iter().map(|(command, comment)| match *comment {
        "" => format!("  {command}"),
        _ => format!("  {command:width$}    # {comment}"),
    });
    join_lines(
        [format!("Created {name} in {path}. To begin:"), String::new()]
            .into_iter()
            .chain(lines)
            .chain([String::new(), "README.md says more.".to_owned()]),
    )
}

/// Quotes a path if needed, so that a POSIX shell reads it as one word, and `cd` not as an option.
fn shell_word(path: &str) -> String {
    let text = if path.starts_with('-') {
        format!("./{path}")
    } else {
        path.to_owned()
    };
    let is_plain = |character: char| character.is_alphanumeric() || "/._-+,@%".contains(character);
    if text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_commands_name_the_folder_and_the_packages() {
        assert_eq!(
            first_commands(&"shop".parse().unwrap(), Path::new("/src/my shop")),
            "\
Created shop in /src/my shop. To begin:

  cd '/src/my shop'
  cargo test                                    # needs no RabbitMQ
  docker compose up --detach --wait rabbitmq    # or any other RabbitMQ
  export AMQP_URL=amqp://localhost
  cargo run --package shop-worker               # until Ctrl-C
  cargo run --package shop-caller -- Ada        # in a second terminal, with the same AMQP_URL

README.md says more."
        );
    }

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        for (path, word) in [
            ("shop", "shop"),
            ("../größe/a.b", "../größe/a.b"),
            ("my shop", "'my shop'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("-", "./-"),
            ("-my shop", "'./-my shop'"),
        ] {
            assert_eq!(shell_word(path), word);
        }
    }
}

//! What programs in Python and TypeScript need: the packages, and the modules that `rpc generate`
//! writes. Prepared once, by the packages' own scripts.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::programs::{command, root, succeeds};

/// How long the installation of a package's dependencies may take.
const INSTALL_LIMIT: Duration = Duration::from_secs(180);

/// How long a compiler, a formatter or a linter may take.
const TOOL_LIMIT: Duration = Duration::from_secs(120);

/// The folder of the modules that `rpc generate` writes.
fn generated() -> PathBuf {
    root().join("tests/fixtures/conformance/generated")
}

fn package(language: &str) -> PathBuf {
    root().join("clients").join(language)
}

/// Returns the value of a variable that holds paths.
fn join(paths: [PathBuf; 2]) -> OsString {
    env::join_paths(paths).expect("the paths have no colon")
}

/// Installs what the package of a language needs, and builds it.
async fn prepare(language: &str) -> Result<(), String> {
    let mut check = command(package(language).join("check"));
    succeeds(check.arg("--prepare"), INSTALL_LIMIT).await
}

/// The programs in `tests/clients/python`.
pub(crate) struct Python {
    programs: PathBuf,
    bin: PathBuf,
}

impl Python {
    /// # Panics
    ///
    /// Panics if it cannot be prepared, with the same reason for each caller.
    pub(crate) async fn get() -> &'static Self {
        static PYTHON: OnceCell<Result<Python, String>> = OnceCell::const_new();

        let prepared = PYTHON.get_or_init(async || {
            prepare("python").await?;
            Ok(Self {
                programs: root().join("tests/clients/python"),
                bin: root().join("target/clients-python/bin"),
            })
        });
        prepared.await.as_ref().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns a command that runs a program.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = command(self.bin.join("python"));
        command.arg(self.programs.join(name));
        let path = join([package("python").join("src"), generated()]);
        command
            .env("PYTHONPATH", path)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Checks the format, the style and the types of the programs and of the generated modules.
    pub(crate) async fn check(&self) -> Result<(), String> {
        let config = package("python").join("pyproject.toml");
        let ruff = |arguments: &[&str], config: &Path, folder: &Path| {
            let mut ruff = command(self.bin.join("ruff"));
            ruff.args(arguments).args(["--no-cache", "--config"]);
            ruff.arg(config).arg(folder);
            ruff
        };
        // A hostile service has names that no style allows.
        let style = [
            "check",
            "--per-file-ignores",
            "hostile.py:N801",
            "--per-file-ignores",
            "hostile.py:E501",
        ];
        for arguments in [&["format", "--check"][..], &style] {
            succeeds(&mut ruff(arguments, &config, &generated()), TOOL_LIMIT).await?;
            let config = self.programs.join("ruff.toml");
            succeeds(&mut ruff(arguments, &config, &self.programs), TOOL_LIMIT).await?;
        }
        let mut mypy = command(self.bin.join("mypy"));
        mypy.current_dir(package("python"))
            .env("MYPYPATH", join([generated(), self.programs.clone()]))
            .args(["--strict", "--cache-dir"])
            .arg(root().join("target/clients-python/mypy"));
        for program in ["worker.py", "caller.py", "survivor.py"] {
            mypy.arg(self.programs.join(program));
        }
        for module in ["conformance.py", "plain.py", "hostile.py"] {
            mypy.arg(generated().join(module));
        }
        succeeds(&mut mypy, TOOL_LIMIT).await
    }
}

/// The programs in `tests/clients/typescript`, in a project like a user's in `target`.
pub(crate) struct TypeScript {
    project: PathBuf,
    sources: Vec<PathBuf>,
}

/// The options of a user who is as strict as possible.
const TSCONFIG: &str = r#"{
  "compilerOptions": {
    "target": "es2023",
    "module": "nodenext",
    "types": ["node"],
    "strict": true,
    "noUncheckedIndexedAccess": true,
    "exactOptionalPropertyTypes": true,
    "noImplicitOverride": true,
    "noFallthroughCasesInSwitch": true,
    "noUnusedLocals": true,
    "noUnusedParameters": true,
    "verbatimModuleSyntax": true,
    "skipLibCheck": true,
    "rootDir": "src",
    "outDir": "dist"
  },
  "include": ["src"]
}
"#;

impl TypeScript {
    /// # Panics
    ///
    /// Panics if it cannot be prepared, or the programs or the generated modules are refused by the
    /// compiler, with the same reason for each caller.
    pub(crate) async fn get() -> &'static Self {
        static TYPESCRIPT: OnceCell<Result<TypeScript, String>> = OnceCell::const_new();

        let prepared = TYPESCRIPT.get_or_init(async || {
            prepare("typescript").await?;
            let project = Self::assemble().map_err(|error| format!("no project in target: {error}"))?;
            succeeds(project.tool("tsc").current_dir(&project.project), TOOL_LIMIT).await?;
            Ok(project)
        });
        prepared.await.as_ref().unwrap_or_else(|error| panic!("{error}"))
    }

    fn assemble() -> std::io::Result<Self> {
        let project = root().join("target/clients-typescript");
        if project.exists() {
            fs::remove_dir_all(&project)?;
        }
        fs::create_dir_all(project.join("src"))?;
        fs::create_dir_all(project.join("node_modules"))?;
        fs::write(project.join("package.json"), r#"{ "type": "module" }"#)?;
        fs::write(project.join("tsconfig.json"), TSCONFIG)?;
        let (package, modules) = (package("typescript"), project.join("node_modules"));
        symlink(package.join("node_modules/@types"), modules.join("@types"))?;
        symlink(package, modules.join("rpc-runtime"))?;
        let mut sources = Vec::new();
        for folder in [generated(), root().join("tests/clients/typescript")] {
            for file in fs::read_dir(folder)? {
                let source = file?.path();
                if source.extension().is_some_and(|extension| extension == "ts") {
                    let name = source.file_name().expect("a file has a name");
                    fs::copy(&source, project.join("src").join(name))?;
                    sources.push(source);
                }
            }
        }
        Ok(Self { project, sources })
    }

    fn tool(&self, name: &str) -> Command {
        command(package("typescript").join("node_modules/.bin").join(name))
    }

    /// Returns a command that runs a program.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = command("node");
        let script = Path::new(name).with_extension("js");
        command
            .arg("--enable-source-maps")
            .arg(self.project.join("dist").join(script));
        command
    }

    /// Checks the format of the programs and of the generated modules. The compiler has accepted
    /// them.
    pub(crate) async fn check(&self) -> Result<(), String> {
        let mut prettier = self.tool("prettier");
        let config = package("typescript").join("package.json");
        prettier
            .args(["--check", "--config"])
            .arg(config)
            .args(&self.sources);
        succeeds(&mut prettier, TOOL_LIMIT).await
    }
}

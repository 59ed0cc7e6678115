//! Creates the folder of a project: with all its files, or not at all.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::templates::NewFile;
use crate::failure::Failure;

/// A folder that may be created: it does not exist, or it is empty and not the current folder.
#[derive(Debug)]
pub(super) struct NewFolder {
    /// The path as the user gave it, for messages.
    shown: PathBuf,
    /// The absolute path of the folder that will contain the new one. It exists.
    parent: PathBuf,
    /// The absolute path of the new folder.
    path: PathBuf,
}

impl NewFolder {
    /// Checks that the folder may be created.
    pub(super) fn at(path: &Path) -> Result<Self, Failure> {
        let (parent, absolute) = match path.canonicalize() {
            Ok(existing) => {
                check_replaceable(path, &existing)?;
                let parent = existing.parent().ok_or_else(|| no_name(path))?;
                (parent.to_owned(), existing)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_dangling_link(path) => {
                let name = path.file_name().ok_or_else(|| no_name(path))?;
                let parent = parent_of(path)?;
                let joined = parent.join(name);
                (parent, joined)
            }
            Err(error) => return Err(cannot_create(path, error)),
        };
        Ok(Self {
            shown: path.to_owned(),
            parent,
            path: absolute,
        })
    }

    /// Creates the folder with these files. If it fails, nothing is left of them.
    ///
    /// Writes the files to a folder within a temporary one in `parent`, and renames that folder to
    /// `path`. Renaming fails if there is a file or a folder that is not empty there, so nothing is
    /// overwritten.
    pub(super) fn create(&self, files: &[NewFile]) -> Result<(), Failure> {
        self.write_and_rename(files)
            .map_err(|error| cannot_create(&self.shown, error))
    }

    /// See [`create`](Self::create).
    fn write_and_rename(&self, files: &[NewFile]) -> io::Result<()> {
        // Only `/` has no name, and `at` refuses it.
        let name = self.path.file_name().unwrap_or(OsStr::new("project"));
        let mut prefix = OsStr::new(".").to_owned();
        prefix.push(name);
        prefix.push("-");
        // This folder is removed when `temporary` is dropped.
        let temporary = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(&self.parent)?;
        // The temporary folder is for its owner only. A folder in it has the usual permissions.
        let project = temporary.path().join(name);
        fs::create_dir(&project)?;
        for file in files {
            let path = project.join(file.path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(path, &file.text)?;
        }
        // If an empty folder is replaced, its permissions stay: it may be private.
        if let Ok(replaced) = fs::metadata(&self.path) {
            fs::set_permissions(&project, replaced.permissions())?;
        }
        fs::rename(&project, &self.path)
    }
}

/// Fails unless `existing`, the absolute path of `path`, is empty and not the current folder.
fn check_replaceable(path: &Path, existing: &Path) -> Result<(), Failure> {
    if !existing.is_dir() {
        return Err(Failure::usage(
            format!("{} exists, and is not a folder", path.display()),
            "choose another one with `--path`",
        ));
    }
    let mut entries = fs::read_dir(existing).map_err(|error| cannot_create(path, error))?;
    if entries.next().is_some() {
        return Err(Failure::usage(
            format!("the folder {} exists, and is not empty", path.display()),
            "choose another one with `--path`",
        ));
    }
    // The folder would be replaced, and the shell would stay in the old one.
    if std::env::current_dir().is_ok_and(|current| current == existing) {
        return Err(Failure::usage(
            format!("{} is the current folder", path.display()),
            "run the command in the folder above, with this one as `--path`",
        ));
    }
    Ok(())
}

/// Returns the absolute path of the folder that will contain `path`.
fn parent_of(path: &Path) -> Result<PathBuf, Failure> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    parent.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::usage(
            format!("there is no folder {}", parent.display()),
            "create it first",
        ),
        _ => cannot_create(path, error),
    })
}

/// Whether a path that leads nowhere is a symbolic link.
fn is_dangling_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn no_name(path: &Path) -> Failure {
    Failure::usage(
        format!("{} cannot be a new folder", path.display()),
        "end the path with the name of the new folder",
    )
}

fn cannot_create(path: &Path, source: io::Error) -> Failure {
    Failure::Create {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn file(path: &'static str) -> NewFile {
        NewFile {
            path,
            text: format!("{path}\n"),
        }
    }

    fn create(path: &Path, files: &[NewFile]) -> Result<(), Failure> {
        NewFolder::at(path)?.create(files)
    }

    fn names(folder: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn the_files_are_written_to_a_new_or_an_empty_folder() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("empty")).unwrap();
        for name in ["new", "empty"] {
            let path = parent.path().join(name);
            create(&path, &[file("a"), file("b/c/d")]).unwrap();
            assert_eq!(fs::read_to_string(path.join("b/c/d")).unwrap(), "b/c/d\n");
            assert_eq!(names(&path), ["a", "b"].map(str::to_owned).into());
        }
        assert_eq!(names(parent.path()), ["empty", "new"].map(str::to_owned).into());
    }

    #[test]
    fn nothing_is_overwritten() {
        let parent = tempfile::tempdir().unwrap();
        let full = parent.path().join("full");
        fs::create_dir(&full).unwrap();
        fs::write(full.join("a"), "mine").unwrap();
        for path in [full.clone(), full.join("a")] {
            assert!(matches!(create(&path, &[file("a")]), Err(Failure::Usage { .. })));
        }
        assert_eq!(fs::read_to_string(full.join("a")).unwrap(), "mine");
        assert_eq!(names(&full), ["a".to_owned()].into());
        assert_eq!(names(parent.path()), ["full".to_owned()].into());
    }

    #[test]
    fn a_folder_that_is_filled_meanwhile_is_not_overwritten() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new");
        let folder = NewFolder::at(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a"), "mine").unwrap();
        assert!(matches!(folder.create(&[file("a")]), Err(Failure::Create { .. })));
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "mine");
        assert_eq!(names(parent.path()), ["new".to_owned()].into());
    }

    #[test]
    fn nothing_is_left_of_a_failed_attempt() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new");
        // `a` is a file, and cannot be a folder.
        let failed = create(&path, &[file("a"), file("a/b")]);
        assert!(matches!(failed, Err(Failure::Create { .. })), "{failed:?}");
        assert_eq!(names(parent.path()), BTreeSet::new());
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_has_the_permissions_of_a_folder_made_by_mkdir() {
        use std::os::unix::fs::PermissionsExt as _;

        let parent = tempfile::tempdir().unwrap();
        let (made, new) = (parent.path().join("made"), parent.path().join("new"));
        fs::create_dir(&made).unwrap();
        create(&new, &[file("a")]).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        assert_eq!(mode(&new), mode(&made));
        // One that is replaced stays private.
        let private = parent.path().join("private");
        fs::create_dir(&private).unwrap();
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
        create(&private, &[file("a")]).unwrap();
        assert_eq!(mode(&private) & 0o777, 0o700);
    }

    #[test]
    fn paths_without_a_parent_or_a_name_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let nowhere = parent.path().join("nowhere");
        for path in [
            nowhere.join("new"),
            nowhere.join(".."),
            "/".into(),
            "".into(),
            ".".into(),
        ] {
            assert!(
                matches!(NewFolder::at(&path), Err(Failure::Usage { .. })),
                "{}",
                path.display()
            );
        }
        assert_eq!(names(parent.path()), BTreeSet::new());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_not_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(matches!(create(&link, &[file("a")]), Err(Failure::Create { .. })));
        assert!(link.is_symlink());
    }
}

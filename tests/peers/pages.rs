//! The pages in `docs/peers`, and the programs on them.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the text of a page.
///
/// # Panics
///
/// Panics if there is no such page.
pub(crate) fn page(name: &str) -> String {
    let path = root().join("docs/peers").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the folder of the repository.
pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the folder is in the repository")
        .to_owned()
}

/// Returns the blocks of code in this language, in their order.
pub(crate) fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("\n```{language}\n");
    let parts = page.split(start.as_str()).skip(1);
    parts
        .map(|part| part.split("```").next().unwrap_or_default())
        .collect()
}

/// Writes the blocks of a page into a folder. The first line of a block is a comment that names its
/// file.
///
/// # Panics
///
/// Panics if a block has no such line, or the file cannot be written.
pub(crate) fn unpack(page: &str, language: &str, folder: &Path) {
    for block in blocks(page, language) {
        let first = block.lines().next().unwrap_or_default();
        let name = first.trim_start_matches(['#', '/']).trim();
        let is_name = name.contains('.')
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c));
        assert!(
            is_name,
            "a block of {language} begins with {first:?} instead of a file's name"
        );
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("it is in the folder")).unwrap();
        fs::write(path, block).unwrap();
    }
}

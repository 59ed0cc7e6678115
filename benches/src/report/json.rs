//! Results as JSON.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use super::Cell;

/// Saves the figures of all rounds, their medians, and the number of processors, 0 if unknown.
pub(crate) fn write(path: &Path, cells: &[Cell]) -> anyhow::Result<()> {
    let cells: Vec<_> = cells
        .iter()
        .map(|cell| json!({ "cell": cell, "median": cell.median() }))
        .collect();
    let results = json!({
        "processors": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "cells": cells,
    });
    save(path, &results)
}

/// Saves results as JSON. Creates the file's folder if it does not exist.
pub(crate) fn save(path: &Path, results: &impl Serialize) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(serde_json::to_writer_pretty(BufWriter::new(file), results)?)
}

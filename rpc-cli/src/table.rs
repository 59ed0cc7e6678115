//! Tables of plain text.

/// A column: its alignment and its heading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// For text.
    Left(&'static str),
    /// For numbers.
    Right(&'static str),
}

/// Rows below headings. Columns are separated by two spaces.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(columns: [Column; N]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row. A line feed in a cell becomes a space.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| cell.replace('\n', " ")));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the table, or an empty text if it has no rows.
    pub(crate) fn render(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let headings = self.columns.map(|column| match column {
            Column::Left(heading) | Column::Right(heading) => heading.to_owned(),
        });
        let all = || std::iter::once(&headings).chain(&self.rows);
        let width_of = |index: usize| all().map(|row| row[index].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..N).map(width_of).collect();
        let lines = all().map(|row| {
            let cells = row.iter().zip(&widths).zip(&self.columns);
            let cells = cells.map(|((cell, &width), column)| match column {
                Column::Left(_) => format!("{cell:<width$}"),
                Column::Right(_) => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([Column::Left("NAME"), Column::Right("CALLS"), Column::Left("ON")]);
        assert_eq!(table.render(), "");
        table.row(["é".into(), "12345678".into(), "one\ntwo".into()]);
        table.row(["longer".into(), "1".into(), String::new()]);
        assert_eq!(
            table.render(),
            "NAME       CALLS  ON\né       12345678  one two\nlonger         1"
        );
    }
}

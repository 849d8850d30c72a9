//! Columns for people.

/// Lines with columns below their heads, two spaces apart; the last column is not filled up.
pub fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([heads[at].chars().count()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let filled: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", filled.join("  ").trim_end())
    };
    let body = rows.iter().map(|row| line(std::array::from_fn(|at| row[at].as_str())));
    std::iter::once(line(heads)).chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["acme".to_owned(), "1".to_owned()], ["é".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "KEYS"], &rows), "NAME  KEYS\nacme  1\né\n");
    }
}

//! Names like one that was meant.

/// At most this many are told.
const MOST: usize = 3;

/// The names most like `meant`, the best first: a few letters other, or one the beginning of the other.
pub fn similar<'n>(meant: &str, names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
    let allowed = (meant.len() / 3).clamp(1, 3);
    let is_beginning =
        |name: &str| meant.len() > 2 && name.len() > 2 && (name.starts_with(meant) || meant.starts_with(name));
    let score = |name: &'n str| {
        let distance = distance(&meant.to_ascii_lowercase(), &name.to_ascii_lowercase());
        if distance <= allowed { Some((distance, name)) } else { is_beginning(name).then_some((allowed + 1, name)) }
    };
    let mut found: Vec<(usize, &str)> = names.into_iter().filter_map(score).collect();
    found.sort_unstable();
    found.into_iter().take(MOST).map(|(_, name)| name.to_owned()).collect()
}

/// How many letters to change, add or take away.
fn distance(one: &str, other: &str) -> usize {
    let other = other.as_bytes();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.bytes().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, candidate) in other.iter().enumerate() {
            let changed = corner + usize::from(letter != *candidate);
            corner = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_few_letters_away_are_found_the_nearest_first() {
        let names = ["acme", "acne", "acme-eu", "zeta", "ame"];
        assert_eq!(similar("acmee", names), ["acme"]);
        assert_eq!(similar("acme-", names), ["acme", "acme-eu"]);
        assert_eq!(similar("ACME", names), ["acme", "acne", "ame"]);
        assert_eq!(similar("zetta", names), ["zeta"]);
        assert!(similar("nothing-like-it", names).is_empty());
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}

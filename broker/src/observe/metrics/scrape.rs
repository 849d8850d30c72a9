//! Leaving out of a scrape what is not configured any more. Whoever still counts there goes on counting unseen, and whoever is
//! configured again counts on from where it was, as counters should.

/// The labels of one line that name something configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'l> {
    /// A database or a cache.
    pub backend: Option<&'l str>,
    /// A tenant.
    pub tenant: Option<&'l str>,
    /// A server's address.
    pub endpoint: Option<&'l str>,
}

/// The lines of a scrape that `keep` keeps, and those that name nothing.
pub(super) fn filtered(text: &str, keep: impl Fn(Named<'_>) -> bool) -> String {
    let kept = text.split_inclusive('\n').filter(|line| line.starts_with('#') || keep(named(line)));
    let mut out = String::with_capacity(text.len());
    kept.for_each(|line| out.push_str(line));
    out
}

fn named(line: &str) -> Named<'_> {
    let labels = line.split_once('{').map_or("", |(_, labels)| labels);
    Named {
        backend: value(labels, "backend=\""),
        tenant: value(labels, "tenant=\""),
        endpoint: value(labels, "endpoint=\""),
    }
}

/// Configured names have no quote in them, so the next one is the end.
fn value<'l>(labels: &'l str, key: &str) -> Option<&'l str> {
    let at = labels.match_indices(key).map(|(at, _)| at).find(|at| *at == 0 || labels.as_bytes()[at - 1] == b',')?;
    labels[at + key.len()..].split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_what_is_gone_are_left_out() {
        let text = "# TYPE a counter\na_total{backend=\"old\",tenant=\"t\"} 1\na_total{backend=\"new\",tenant=\"t\"} 2\n\
                    b{x_backend=\"old\",endpoint=\"h:1\"} 3\nplain 4\n# EOF\n";
        let kept = filtered(text, |named| named.backend != Some("old"));
        assert_eq!(
            kept,
            "# TYPE a counter\na_total{backend=\"new\",tenant=\"t\"} 2\nb{x_backend=\"old\",endpoint=\"h:1\"} 3\nplain 4\n# EOF\n"
        );
        let seen = named("a{endpoint=\"[::1]:5\",tenant=\"t\",le=\"+Inf\"} 1");
        assert_eq!(seen, Named { backend: None, tenant: Some("t"), endpoint: Some("[::1]:5") });
    }
}

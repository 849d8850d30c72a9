//! `docs/config.md`, made from the doc comments and defaults of the configuration's types.

use std::fmt::Write as _;

use schemars::schema_for;
use serde_json::Value;

use super::Config;

/// The reference of every field, as Markdown.
pub fn markdown() -> String {
    let schema = schema_for!(Config).to_value();
    let mut out = String::from(
        "# Configuration\n\n<!-- Made by `hearth config-reference`; a test compares. -->\n\n\
         One TOML file (`hearth serve --config hearth.toml`), and over it environment variables named\n\
         `HEARTH__SECTION__FIELD`. Where no file can be had, `HEARTH_CONFIG_TOML` may hold the whole text. Unknown keys are\n\
         refused; `hearth check` tells every fault at once. Durations are `250ms`, `2s`, `5m`, `1h`, `30d`; sizes are `64KiB`,\n`16MiB`.\n",
    );
    for (section, title) in [
        ("server", "[server]"),
        ("log", "[log]"),
        ("databases", "[databases.NAME]"),
        ("caches", "[caches.NAME]"),
        ("fleet", "[fleet]"),
        ("tenants", "[tenants.NAME]"),
        ("identity", "[identity]"),
        ("control", "[control]"),
    ] {
        let property = &schema["properties"][section];
        let item =
            if property["additionalProperties"].is_object() { &property["additionalProperties"] } else { property };
        write!(out, "\n## `{title}`\n\n{}\n\n", text(property)).expect("writing to a string does not fail");
        fields(&mut out, &schema, resolve(&schema, item), "");
    }
    out
}

fn fields(out: &mut String, schema: &Value, object: &Value, prefix: &str) {
    for (name, field) in object["properties"].as_object().into_iter().flatten() {
        let (inner, dots) = if field["items"].is_object() {
            (&field["items"], format!("{prefix}{name}[]."))
        } else if field["additionalProperties"].is_object() {
            (&field["additionalProperties"], format!("{prefix}{name}.NAME."))
        } else {
            (field, format!("{prefix}{name}."))
        };
        let inner = resolve(schema, inner);
        writeln!(out, "- **`{prefix}{name}`** — {}", text(field)).expect("writing to a string does not fail");
        if inner["properties"].is_object() {
            fields(out, schema, inner, &dots);
        }
        for choice in inner["oneOf"].as_array().into_iter().flatten() {
            if let Some(word) = choice["const"].as_str() {
                writeln!(out, "  - `{word}`: {}", text(choice)).expect("writing to a string does not fail");
            }
        }
    }
}

/// A field's own text; line breaks inside a doc comment are only breaks of its source.
fn text(value: &Value) -> String {
    value["description"].as_str().unwrap_or_default().replace('\n', " ")
}

fn resolve<'a>(schema: &'a Value, value: &'a Value) -> &'a Value {
    let target = ["/$ref", "/allOf/0/$ref", "/anyOf/0/$ref"].into_iter().find_map(|at| value.pointer(at)?.as_str());
    target.and_then(|path| schema.pointer(path.trim_start_matches('#'))).unwrap_or(value)
}

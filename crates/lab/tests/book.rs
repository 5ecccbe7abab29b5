//! The book's page on recipes says what the program does.

use lab::recipe::{FIELDS, Recipe};
use toml::Table;

const PAGE: &str = include_str!("../../../docs/src/recipe.md");
const ALL_FIVE: &str = include_str!("../recipes/all-five.toml");

/// The settings of a section, as the page has them.
fn settings(section: &str) -> String {
    let defaults = Table::try_from(Recipe::default()).unwrap();
    let fields = FIELDS.iter().filter_map(|field| Some((field.name.strip_prefix(section)?.strip_prefix('.')?, field)));
    let rows = fields
        .map(|(key, field)| format!("| `{key}` | `{}` | {} | {} |\n", defaults[section][key], field.kind, field.doc));
    format!("| setting | default | allowed | |\n|---|---|---|---|\n{}", rows.collect::<String>())
}

#[test]
fn every_setting_is_on_the_page() {
    let mut sections: Vec<&str> = FIELDS.iter().map(|field| field.name.split_once('.').unwrap().0).collect();
    sections.dedup();
    for section in sections {
        let expected = settings(section);
        assert!(PAGE.contains(&expected), "the page's table of [{section}] should be\n{expected}");
    }
}

#[test]
fn the_example_is_the_recipe_in_the_repository() {
    assert!(PAGE.contains(ALL_FIVE));
    Recipe::parse(ALL_FIVE, "recipes/all-five.toml").unwrap();
}

//! What an explained plan says: which relations it reads, and what it asks their indexes for. Pure.

use serde_json::Value;

use crate::sql::{Ident, QualifiedName, behind_words, holds_word};

/// The nodes below a node.
pub(super) fn children(node: &Value) -> impl Iterator<Item = &Value> {
    node["Plans"].as_array().into_iter().flatten()
}

/// A field of a node as text; empty when it has none.
pub(super) fn word<'v>(node: &'v Value, name: &str) -> &'v str {
    node[name].as_str().unwrap_or_default()
}

/// Whether a node reads rows.
pub(super) fn is_scan(node: &Value) -> bool {
    word(node, "Node Type").ends_with("Scan")
}

/// The relation that a node reads.
pub(super) fn relation(node: &Value) -> QualifiedName {
    QualifiedName::new(word(node, "Schema"), word(node, "Relation Name"))
}

/// The indexes that a node reads, and what each is asked for.
pub(super) fn index_looks<'v>(node: &'v Value, looks: &mut Vec<(&'v str, &'v str)>) {
    if !word(node, "Index Name").is_empty() {
        looks.push((word(node, "Index Name"), word(node, "Index Cond")));
    }
    let is_bitmap = |child: &&Value| word(child, "Node Type").starts_with("Bitmap");
    children(node).filter(is_bitmap).for_each(|child| index_looks(child, looks));
}

/// Whether a condition, as the server writes it with all names qualified, has a column in it.
pub(super) fn mentions(condition: &str, alias: &str, column: &Ident) -> bool {
    written(alias).iter().any(|alias| {
        let names = written(column.as_str());
        names.iter().any(|column| holds_word(condition, &format!("{alias}.{column}")))
    })
}

/// Whether a condition has any column of a relation in it.
pub(super) fn mentions_any(condition: &str, alias: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '"');
    written(alias)
        .iter()
        .any(|alias| behind_words(condition, alias, is_part).any(|behind| behind.starts_with('.')))
}

/// How the server may write a name.
fn written(name: &str) -> [String; 2] {
    [name.to_owned(), Ident::new(name).to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_found_by_its_whole_name() {
        let has = |condition: &str, column: &str| mentions(condition, "t_1", &Ident::new(column));
        let plain = "((t_1.tenant = 1) AND (t_1.id <= '5'::bigint))";
        assert!(has(plain, "tenant") && has(plain, "id"));
        assert!(!has(plain, "ten") && !has(plain, "d") && !has("(tt_1.id = 1)", "id"));
        assert!(!has("(t_1.kind = 'id'::text)", "id"));
        assert!(has(r#"(ROW(t_1."Day", t_1.id) <= ROW(1, 2))"#, "Day"));
    }

    #[test]
    fn a_relation_is_found_by_its_whole_alias() {
        assert!(mentions_any("(src.id = t.id)", "t") && mentions_any(r#"("T".id = 1)"#, "T"));
        assert!(!mentions_any("(tt.id = 1)", "t") && !mentions_any("(src.t = 1)", "t"));
    }
}

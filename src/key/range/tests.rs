//! The predicates of ranges and of their parts, as texts and against the law that each key is in one of them.

use super::*;

fn key(columns: &[(&str, &str)]) -> Key {
    let column = |(name, ty): &(&str, &str)| KeyColumn {
        name: Ident::new(*name),
        type_sql: (*ty).to_owned(),
        type_name: (*ty).to_owned(),
        spread: Some(Spread::Hash(format!("pg_catalog.hash{ty}extended"))),
    };
    Key { columns: columns.iter().map(column).collect() }
}

#[test]
fn one_column_is_a_plain_comparison() {
    let key = key(&[("id", "int8")]);
    assert_eq!(
        key.range_sql(&Ident::new("t"), Form::WHOLE, 1),
        r#""t"."id" > $1::int8 AND "t"."id" <= $2::int8"#
    );
    assert_eq!(key.range_sql(&Ident::new("t"), Form::FIRST, 3), r#""t"."id" <= $3::int8"#);
}

#[test]
fn several_columns_are_a_row_comparison_with_a_leading_bound() {
    let key = key(&[("a", "int4"), ("b", "text")]);
    assert_eq!(
        key.range_sql(&Ident::new("t"), Form::WHOLE, 1),
        r#"("t"."a", "t"."b") > ($1::int4, $2::text) AND "t"."a" >= $1::int4 AND ("t"."a", "t"."b") <= ($3::int4, $4::text) AND "t"."a" <= $3::int4"#
    );
    assert_eq!(key.range_params(Form::WHOLE), 4);
}

#[test]
fn a_stripe_hashes_all_columns() {
    let form = Form { stripe: Striped::Scanned, ..Form::FIRST };
    let sql = key(&[("a", "int4"), ("b", "text")]).range_sql(&Ident::new("t"), form, 1);
    let expected = r#"(pg_catalog.hashtextextended("t"."b", pg_catalog.hashint4extended("t"."a", 0)) OPERATOR(pg_catalog.&) 9223372036854775807) OPERATOR(pg_catalog.%) $3::pg_catalog.int8 OPERATOR(pg_catalog.=) $4::pg_catalog.int8"#;
    assert!(sql.ends_with(expected), "{sql}");
    let range = KeyRange {
        stripe: Some(Stripe { j: 2, k: 8, is_dense: true }),
        ..KeyRange::new(None, Bound(vec!["7".into(), "x".into()]))
    };
    assert_eq!((range.form(), range.params().join(" ")), (form, "7 x 8 2".to_owned()));
}

#[test]
fn a_range_falls_into_parts_that_end_where_they_end() {
    let key = key(&[("a", "int4"), ("b", "int4"), ("c", "int4")]);
    let bound = |text: &str| Bound(text.split(' ').map(str::to_owned).collect());
    let parts = |after: Option<&str>, upto: &str| {
        let range = KeyRange::new(after.map(bound), bound(upto));
        let sql = |form: Form| key.range_sql(&Ident::new("t"), form, 1);
        let sql: Vec<String> = range.parts().into_iter().map(sql).collect();
        sql.join("\n").replace("\"t\".", "").replace('"', "").replace("::int4", "")
    };
    assert_eq!(parts(Some("1 2 3"), "1 2 9"), "a = $1 AND b = $2 AND c > $3 AND c <= $6");
    assert_eq!(
        parts(Some("1 2 3"), "1 7 9"),
        "a = $1 AND b = $2 AND c > $3 AND (a, b, c) <= ($4, $5, $6) AND a <= $4\n\
         a = $4 AND b > $2 AND b < $5\n\
         a = $4 AND b = $5 AND c <= $6 AND b > $2"
    );
    assert_eq!(
        parts(Some("1 2 3"), "4 7 9"),
        "a = $1 AND (b, c) > ($2, $3) AND b >= $2 AND (a, b, c) <= ($4, $5, $6) AND a <= $4\n\
         a > $1 AND a < $4\n\
         a = $4 AND b < $5 AND a > $1\n\
         a = $4 AND b = $5 AND c <= $6 AND a > $1"
    );
    assert_eq!(parts(None, "4 7 9"), "a < $1\na = $1 AND b < $2\na = $1 AND b = $2 AND c <= $3");
}

#[test]
fn listed_keys_are_looked_for_by_index_and_within_the_range() {
    let range = KeyRange {
        only: Some(r#"[["7"]]"#.to_owned()),
        ..KeyRange::new(None, Bound(vec!["9".to_owned()]))
    };
    let one = key(&[("id", "int8")]);
    let sql = one.range_sql(&Ident::new("t"), range.form(), 1);
    let listed = "(SELECT (backfill_key OPERATOR(pg_catalog.->>) 0)::int8 FROM pg_catalog.jsonb_array_elements($2::pg_catalog.text::";
    let by_index = format!(r#""t"."id" <= $1::int8 AND "t"."id" = ANY (ARRAY{listed}"#);
    let exactly = format!(r#" AND ("t"."id") IN {listed}"#);
    assert!(sql.starts_with(&by_index) && sql.contains(&exactly), "{sql}");
    assert_eq!((one.range_params(range.form()), range.params().len()), (2, 2));
    let two = key(&[("a", "int4"), ("b", "text")]);
    let form = Form { part: Part::Only, ..Form::WHOLE };
    let sql = two.range_sql(&Ident::new("t"), form, 1);
    assert!(sql.contains(r#" AND ("t"."a", "t"."b") IN (SELECT (backfill_key"#), "{sql}");
    assert!(sql.contains("($5::pg_catalog.text::"), "{sql}");
}

#[test]
fn every_part_has_a_form_among_all() {
    for width in 1..5 {
        let all = Form::all(width);
        let bound = |same: usize, tail: &str| {
            Bound((0..width).map(|i| if i < same { "1".into() } else { tail.into() }).collect())
        };
        for same in 0..=width {
            for after in [None, Some(bound(width, ""))] {
                let striped = Some(Stripe { j: 0, k: 2, is_dense: width == 1 });
                for (stripe, only) in [(None, None), (striped, None), (None, Some(String::new()))] {
                    let whole = KeyRange::new(after.clone(), bound(same, "2"));
                    let range = KeyRange { stripe, only, ..whole };
                    let parts = range.parts();
                    assert!(parts.iter().chain([&range.form()]).all(|form| all.contains(form)));
                    let ordinals: Vec<usize> = parts.iter().map(|f| f.part.ordinal()).collect();
                    assert!(ordinals.is_sorted_by(|a, b| a < b), "{ordinals:?}");
                }
            }
        }
    }
}

//! What a database's schema is, as lines of text that can be compared.
//!
//! Read with an empty search path, so that every name is written out. What belongs to extensions, and the state tables, are left out; so
//! is the order of columns, which no way back can restore.

use std::collections::BTreeSet;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::db;
use crate::sql::Ident;

/// A line for each thing: its kind, its name, its definition.
const QUERY: &str = r"
with ours as (
    select n.oid, n.nspname from pg_catalog.pg_namespace n
     where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $1)
), member as (
    select d.classid, d.objid from pg_catalog.pg_depend d where d.deptype = 'e'
), rel as (
    select c.*, format('%I.%I', o.nspname, c.relname) as name
      from pg_catalog.pg_class c join ours o on o.oid = c.relnamespace
     where (1259, c.oid) not in (select classid::int8, objid from member)
)
select format('schema %I', nspname) from ours
union all
select format('%s %s %s %s %s', case relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view'
              when 'm' then 'materialized view' when 'S' then 'sequence' when 'c' then 'type' when 'f' then 'foreign table' end,
              name, relpersistence, coalesce(array_to_string(reloptions, ','), ''),
              coalesce(case when relkind in ('v', 'm') then pg_get_viewdef(oid) end, pg_get_expr(relpartbound, oid), pg_get_partkeydef(oid), ''))
  from rel where relkind in ('r', 'p', 'v', 'm', 'S', 'c', 'f')
union all
select format('row security %s %s %s', name, relrowsecurity, relforcerowsecurity) from rel where relrowsecurity
union all
select format('grants %s %s', name, (select string_agg(a::text, ',' order by a::text) from unnest(relacl) a)) from rel where relacl is not null
union all
select format('column %s.%I %s%s%s%s%s%s', r.name, a.attname, format_type(a.atttypid, a.atttypmod),
              case when a.attnotnull then ' not null' end,
              case when a.attidentity <> '' then ' identity ' || a.attidentity::text end,
              case when a.attgenerated <> '' then ' generated ' || a.attgenerated::text end,
              ' ' || pg_get_expr(d.adbin, d.adrelid),
              ' collate ' || (select format('%I', collname) from pg_catalog.pg_collation k where k.oid = a.attcollation and k.collname <> 'default'))
  from rel r
  join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
  left join pg_catalog.pg_attrdef d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
 where r.relkind in ('r', 'p', 'c', 'f')
union all
select format('constraint %s %I %s %s', r.name, k.conname, pg_get_constraintdef(k.oid), case when k.convalidated then '' else 'not valid' end)
  from rel r join pg_catalog.pg_constraint k on k.conrelid = r.oid
 where k.contype <> 't'
union all
select format('index %s %s', pg_get_indexdef(i.indexrelid), case when i.indisvalid then '' else 'invalid' end)
  from rel r join pg_catalog.pg_index i on i.indrelid = r.oid
union all
select format('trigger %s %s', pg_get_triggerdef(t.oid), t.tgenabled)
  from rel r join pg_catalog.pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal
union all
select format('rule %s', pg_get_ruledef(w.oid)) from rel r join pg_catalog.pg_rewrite w on w.ev_class = r.oid where w.rulename <> '_RETURN'
union all
select format('policy %s %I %s %s %s', r.name, p.polname, p.polcmd, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
  from rel r join pg_catalog.pg_policy p on p.polrelid = r.oid
union all
select format('sequence %s %s %s %s %s %s', r.name, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcycle)
  from rel r join pg_catalog.pg_sequence s on s.seqrelid = r.oid
union all
select format('function %s', pg_get_functiondef(p.oid)) from pg_catalog.pg_proc p join ours o on o.oid = p.pronamespace
 where p.prokind in ('f', 'p') and (1255, p.oid) not in (select classid::int8, objid from member)
union all
select format('enum %I.%I %s', o.nspname, t.typname, (select string_agg(quote_literal(e.enumlabel), ',' order by e.enumsortorder)
                                                       from pg_catalog.pg_enum e where e.enumtypid = t.oid))
  from pg_catalog.pg_type t join ours o on o.oid = t.typnamespace
 where t.typtype = 'e' and (1247, t.oid) not in (select classid::int8, objid from member)
union all
select format('domain %I.%I %s %s %s %s', o.nspname, t.typname, format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault,
              (select string_agg(format('%I %s', k.conname, pg_get_constraintdef(k.oid)), ',' order by k.conname)
                 from pg_catalog.pg_constraint k where k.contypid = t.oid))
  from pg_catalog.pg_type t join ours o on o.oid = t.typnamespace
 where t.typtype = 'd' and (1247, t.oid) not in (select classid::int8, objid from member)
union all
select format('extension %I %s', extname, extversion) from pg_catalog.pg_extension
union all
select format('comment %s %s %L', r.name, d.objsubid, d.description)
  from rel r join pg_catalog.pg_description d on d.classoid = 1259 and d.objoid = r.oid and d.objsubid = 0";

/// Reads the schema; one line for each thing in it.
pub async fn take(client: &Client, state_schema: &Ident) -> Result<BTreeSet<String>, Error> {
    client
        .batch_execute(
            "BEGIN READ ONLY; SET LOCAL search_path = ''; SET LOCAL extra_float_digits = 1; \
                        SET LOCAL quote_all_identifiers = off; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'",
        )
        .await?;
    let rows = db::ask_as_is(client, QUERY, &[(&state_schema.as_str(), Type::TEXT)]).await;
    client.batch_execute("ROLLBACK").await?;
    Ok(rows?.iter().map(|row| row.get(0)).collect())
}

/// What one has and the other has not: `- …` only in the first, `+ …` only in the second.
pub fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    let gone = before.difference(after).map(|line| format!("- {line}"));
    let come = after.difference(before).map(|line| format!("+ {line}"));
    gone.chain(come).collect()
}

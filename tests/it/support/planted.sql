-- Everything that could be taken for one of pg_catalog's, in `public`: functions, aggregates and operators of the same names for other
-- arguments, each of which says aloud that it was called. Where an argument does not fit those of pg_catalog exactly, one of these does.
do $$
declare
    found record;
    one text;
    two text;
    body constant text := 'language plpgsql as $f$ begin raise exception ''PLANTED %''; end $f$';
    types constant text[] := array['text', 'name', 'oid', 'int2', 'int4', 'int8', 'float8', 'numeric', 'bool', 'timestamptz', 'interval',
        'jsonb', 'json', 'text[]', 'oid[]', 'name[]', 'int2[]', 'int4[]', 'regclass', 'regtype', 'pg_lsn', '"char"', 'xid', 'xid8',
        'int2vector', 'oidvector', 'pg_node_tree'];
    others constant text[] := array['text', 'name', 'oid', 'int4', 'int8', 'bool', 'text[]', 'jsonb', 'timestamptz', 'interval', 'regclass'];
begin
    -- So that it does not meet them itself.
    perform set_config('search_path', 'pg_catalog', false);
    for found in
        select distinct p.proname as name, p.pronargs as args, p.proretset as is_set
          from pg_proc p
         where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and p.pronargs in (1, 2)
           and p.proargtypes::oid[] && array['text', 'oid', 'regclass', 'int4', 'int8', 'float8', 'numeric', 'jsonb', 'anyelement', 'anyarray',
               '"any"', 'anycompatible', 'anycompatiblearray']::regtype[]::oid[]
           -- What the server itself calls for types, statistics and planning is not called by name.
           and p.proname !~ '(in|out|recv|send|sel|sel2|joinsel|support|eq|ne|lt|le|gt|ge|cmp|_transfn|_finalfn|_accum|_combine|serialize|_invfn)$'
           and p.proname !~ '^(RI_|_|ts_|int|float|numeric|text|json_pop|array_sel|like|not|pg_stat_get|pg_stat_reset)'
    loop
        foreach one in array types loop
            foreach two in array case found.args when 1 then array[null] else others end loop
                begin
                    execute format('create function public.%I(%s) returns %s %s', found.name, concat_ws(', ', one, two),
                                   case when found.is_set then 'setof text' else 'text' end,
                                   replace(body, '%', format('function %s(%s)', found.name, concat_ws(', ', one, two))));
                exception when others then null; -- It is pg_catalog's own, or no function of the type can be.
                end;
            end loop;
        end loop;
    end loop;
    foreach one in array types loop
        execute format('create function public.planted_state(text, %s) returns text %s', one, replace(body, '%', 'aggregate of ' || one));
        foreach two in array array['count', 'sum', 'max', 'min', 'array_agg', 'jsonb_agg', 'json_agg', 'string_agg', 'bool_and', 'bool_or'] loop
            begin
                execute format('create aggregate public.%I(%s) (sfunc = public.planted_state, stype = text)', two, one);
            exception when others then null;
            end;
        end loop;
        foreach two in array types loop
            execute format('create function public.planted_test(%s, %s) returns bool %s', one, two,
                           replace(body, '%', format('comparison of %s and %s', one, two)));
            execute format('create function public.planted_value(%s, %s) returns text %s', one, two,
                           replace(body, '%', format('operator on %s and %s', one, two)));
            for found in
                select sign, function
                  from (values ('planted_test', '{=,<>,<,<=,>,>=,~,!~,@>,<@,&&,~~,!~~}'::text[]),
                               ('planted_value', '{||,->,->>,#>>,+,-,*,/,%,&}')) as v (function, signs), unnest(signs) as sign
            loop
                begin
                    execute format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.%s)', found.sign, one, two,
                                   found.function);
                exception when others then null;
                end;
            end loop;
        end loop;
    end loop;
end $$;
reset search_path;

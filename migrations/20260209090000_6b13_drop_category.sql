-- Contract of the rename: nobody reads or writes the old name any more.
-- revises: 5a2c
-- requires: skill_category@proved
-- stop: no code may use category any more
-- irreversible: the old column is gone; its values live on in skill_category
-- ignore drop-column: contract of a rename; the trigger that kept both alike has shown that nobody writes the old name

-- up
DROP INDEX CONCURRENTLY public.skills_category;
DROP TRIGGER skills_category_update ON public.skills;
DROP TRIGGER skills_category_insert ON public.skills;
DROP FUNCTION public.skills_category_sync();
CREATE OR REPLACE FUNCTION public.skills_governance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.governance_phases := CASE
        WHEN NEW.skill_category IN ('development', 'data') THEN ARRAY['build']
        WHEN NEW.skill_category IN ('security', 'documentation') THEN ARRAY['prove']
        WHEN NEW.skill_category IN ('operations', 'support') THEN ARRAY['run', 'prove']
        ELSE ARRAY['discover'] END;
    RETURN NEW;
END
$$;
ALTER TABLE public.skills DROP COLUMN category;

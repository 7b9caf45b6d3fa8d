-- From here on no row can come without its phases: what the application leaves out is filled as the backfill would fill it.
-- The guard stands before the backfill, or rows written behind its back would be missed.
-- revises: a95e

-- up
CREATE FUNCTION public.skills_governance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.governance_phases := CASE
        WHEN NEW.category IN ('development', 'data') THEN ARRAY['build']
        WHEN NEW.category IN ('security', 'documentation') THEN ARRAY['prove']
        WHEN NEW.category IN ('operations', 'support') THEN ARRAY['run', 'prove']
        ELSE ARRAY['discover'] END;
    RETURN NEW;
END
$$;
CREATE TRIGGER skills_governance BEFORE INSERT ON public.skills
    FOR EACH ROW WHEN (NEW.governance_phases IS NULL) EXECUTE FUNCTION public.skills_governance();

-- down
DROP TRIGGER skills_governance ON public.skills;
DROP FUNCTION public.skills_governance();

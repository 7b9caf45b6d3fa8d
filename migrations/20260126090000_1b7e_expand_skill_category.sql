-- category becomes skill_category: both stand side by side, whichever the application writes, until the old one is read by nobody.
-- revises: 0c5d

-- up
ALTER TABLE public.skills ADD COLUMN skill_category text;
CREATE FUNCTION public.skills_category_sync() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.skill_category := coalesce(NEW.skill_category, NEW.category);
        NEW.category := coalesce(NEW.category, NEW.skill_category);
    ELSIF NEW.category IS DISTINCT FROM OLD.category THEN
        NEW.skill_category := NEW.category;
    ELSIF NEW.skill_category IS NOT NULL THEN
        NEW.category := NEW.skill_category;
    END IF; -- NULL in the new column is the backfill being taken back; the old one stays as it is
    RETURN NEW;
END
$$;
CREATE TRIGGER skills_category_insert BEFORE INSERT ON public.skills
    FOR EACH ROW EXECUTE FUNCTION public.skills_category_sync();
CREATE TRIGGER skills_category_update BEFORE UPDATE OF category, skill_category ON public.skills
    FOR EACH ROW WHEN (NEW.category IS DISTINCT FROM OLD.category OR NEW.skill_category IS DISTINCT FROM OLD.skill_category)
    EXECUTE FUNCTION public.skills_category_sync();

-- down
DROP TRIGGER skills_category_update ON public.skills;
DROP TRIGGER skills_category_insert ON public.skills;
DROP FUNCTION public.skills_category_sync();
ALTER TABLE public.skills DROP COLUMN skill_category;

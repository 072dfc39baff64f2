-- works for regionds that know 0002
-- Who may claim from a subnet, beside admins: NULL for every account, or the ids of those that may. An older regiond asks
-- nobody: say it when all regionds know it.

ALTER TABLE subnet ADD COLUMN claimants bigint[];

CREATE FUNCTION claimant_names(s subnet) RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN s.claimants IS NOT NULL THEN
        ARRAY(SELECT a.name FROM account a WHERE a.id = ANY(s.claimants) ORDER BY a.name) END
$$;

-- After the crash: what was acknowledged, and what is there of each transaction. :notes is the file with all that the
-- clients noted.
CREATE TEMP TABLE acknowledged (client int, number int);
COPY acknowledged FROM :'notes';

CREATE TEMP TABLE found AS
SELECT client, number, coalesce(parts, 0) AS parts, h IS NOT NULL AS in_heap
  FROM (SELECT client, number, count(*) AS parts FROM written GROUP BY 1, 2) a
  FULL JOIN written_heap h USING (client, number);

SELECT (SELECT count(*) FROM acknowledged) AS acknowledged,
       (SELECT count(*) FROM acknowledged LEFT JOIN found USING (client, number)
         WHERE parts IS DISTINCT FROM 3 OR NOT in_heap) AS missing,
       (SELECT count(*) FROM found WHERE parts <> 3 OR NOT in_heap) AS half,
       (SELECT count(*) FROM found LEFT JOIN acknowledged a USING (client, number) WHERE a IS NULL) AS beyond;

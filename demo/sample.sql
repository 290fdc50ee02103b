-- After loading: ten thousand characters from all over the tables, the same ones each time.
SELECT setseed(0.5);
CREATE TABLE sample AS
SELECT code FROM (SELECT code FROM unihan_heap WHERE property = 'kRSUnicode' ORDER BY code) c
 ORDER BY random() LIMIT 10000;

VACUUM ANALYZE unihan_heap;
ANALYZE unihan;
ANALYZE sample;
ANALYZE word;

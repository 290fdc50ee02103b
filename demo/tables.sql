-- The tables of the demo. The first two hold the same rows; one of them is an AiDb table.
CREATE EXTENSION aidb;
CREATE FOREIGN TABLE unihan (code int, property text, value text, PRIMARY KEY (code, property)) SERVER aidb;
CREATE TABLE unihan_heap (code int, property text, value text, PRIMARY KEY (code, property));

-- Words, one row a character.
CREATE TABLE word (id int, position int, code int);
INSERT INTO word SELECT id, position, ascii(letter)
  FROM unnest(ARRAY['中国', '日本', '太平洋', '图书馆']) WITH ORDINALITY AS w(text, id),
       regexp_split_to_table(w.text, '') WITH ORDINALITY AS c(letter, position);

-- What the writers of the crash test write: in each transaction three rows here and one there.
CREATE FOREIGN TABLE written (client int, number int, part int, PRIMARY KEY (client, number, part)) SERVER aidb;
CREATE TABLE written_heap (client int, number int, PRIMARY KEY (client, number));

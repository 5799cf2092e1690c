-- What `bench ingest` asks of DuckDB alone: dedupe, k-core to a fixpoint, numbers by falling degree, both orders of edges.
-- Every statement ends with a semicolon. Statements between "repeat" and "until" run until the query after "until" answers 0.
-- {rows} is the input, {out} the folder that takes the result, {k} the core.

CREATE TABLE edges AS SELECT DISTINCT "user", item FROM read_parquet('{rows}');

-- repeat
CREATE TABLE before AS SELECT count(*) AS edges FROM edges;
CREATE TABLE kept AS SELECT * FROM edges SEMI JOIN (SELECT item FROM edges GROUP BY item HAVING count(*) >= {k}) USING (item);
DROP TABLE edges;
CREATE TABLE edges AS SELECT * FROM kept SEMI JOIN (SELECT "user" FROM kept GROUP BY "user" HAVING count(*) >= {k}) USING ("user");
DROP TABLE kept;
CREATE TABLE fallen AS SELECT before.edges - (SELECT count(*) FROM edges) AS edges FROM before;
DROP TABLE before;
-- until
SELECT edges FROM fallen;

CREATE TABLE users AS SELECT "user", (row_number() OVER (ORDER BY count(*) DESC, "user") - 1)::INTEGER AS number, count(*) AS degree FROM edges GROUP BY "user";
CREATE TABLE items AS SELECT item, (row_number() OVER (ORDER BY count(*) DESC, item) - 1)::INTEGER AS number, count(*) AS degree FROM edges GROUP BY item;
CREATE TABLE mapped AS SELECT users.number AS u, items.number AS i FROM edges JOIN users USING ("user") JOIN items USING (item);
DROP TABLE edges;
COPY (SELECT * FROM users ORDER BY number) TO '{out}/users.parquet' (COMPRESSION zstd);
COPY (SELECT * FROM items ORDER BY number) TO '{out}/items.parquet' (COMPRESSION zstd);
COPY (SELECT i FROM mapped ORDER BY u, i) TO '{out}/user_items.parquet' (COMPRESSION uncompressed);
COPY (SELECT u FROM mapped ORDER BY i, u) TO '{out}/item_users.parquet' (COMPRESSION uncompressed);

import dagster as dg

from dagster_metaxy.resources import ApiResource, DatabaseResource


def catalog_entries(context, catalog: ApiResource):
    return dg.MaterializeResult(value=list(catalog.items("entries")))


def titles(context, database: DatabaseResource):
    rows = database.query("SELECT title FROM titles ORDER BY title")
    return dg.MaterializeResult(value=rows["title"].to_list())


def by_camera(context):
    return dg.MaterializeResult(value={"camera": context.partition_key})


def by_customer(database: DatabaseResource):
    return database.query("SELECT customer, COUNT(*) AS orders FROM orders GROUP BY customer")


def by_day(context, database: DatabaseResource):
    orders = database.query(
        "SELECT COUNT(*) AS count FROM orders WHERE day = :day", {"day": context.partition_key}
    )
    return dg.MaterializeResult(value=orders.to_dicts()[0])


def report(context, session: dg.ResourceParam[object], database: DatabaseResource):
    with database.connect() as connection:
        connection.exec_driver_sql("INSERT INTO scratch SELECT title FROM titles")
        count = connection.exec_driver_sql("SELECT COUNT(*) FROM scratch").scalar()
    return dg.MaterializeResult(value={"titles": count})

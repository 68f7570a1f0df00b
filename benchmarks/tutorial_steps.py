"""How ClickHouse's tutorial "Laion-400M dataset" brings a shard in: its script, its table, its statement, as printed.

What is not printed there: the script does not remove its input at its end, because others read it after it.
"""

from __future__ import annotations

#: `python process.py NUMBER`, in the directory of the shard.
PROCESS = """\
import pandas as pd
import numpy as np
import os
import sys

str_i = str(sys.argv[1])
npy_file = "img_emb_" + str_i + '.npy'
metadata_file = "metadata_" + str_i + '.parquet'
text_npy =  "text_emb_" + str_i + '.npy'

# load all files
im_emb = np.load(npy_file)
text_emb = np.load(text_npy)
data = pd.read_parquet(metadata_file)

# combine files
data = pd.concat([data, pd.DataFrame({"image_embedding" : [*im_emb]}), pd.DataFrame({"text_embedding" : [*text_emb]})], axis=1, copy=False)

# columns to be imported into ClickHouse
data = data[['url', 'caption', 'NSFW', 'similarity', "image_embedding", "text_embedding"]]

# transform np.arrays to lists
data['image_embedding'] = data['image_embedding'].apply(lambda x: x.tolist())
data['text_embedding'] = data['text_embedding'].apply(lambda x: x.tolist())

# this small hack is needed because caption sometimes contains all kind of quotes
data['caption'] = data['caption'].apply(lambda x: x.replace("'", " ").replace('"', " "))

# export data as CSV file
data.to_csv(str_i + '.csv', header=False)
"""  # noqa: E501  # the tutorial's line
INSERT = "INSERT INTO laion FROM INFILE '{path_to_csv_files}/*.csv'"


def create_table(name: str = "laion") -> str:
    """The tutorial's CREATE TABLE; there the table is called `laion`."""
    return f"""CREATE TABLE {name}
(
    `id` Int64,
    `url` String,
    `caption` String,
    `NSFW` String,
    `similarity` Float32,
    `image_embedding` Array(Float32),
    `text_embedding` Array(Float32)
)
ENGINE = MergeTree
ORDER BY id"""

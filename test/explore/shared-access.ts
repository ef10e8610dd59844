/** Recognizes accesses to shared memory with the type checker: Atomics, typed arrays, clocks. */
import ts from 'typescript';

const TYPED_ARRAY = /^(?:(?:Int|Uint)(?:8|16|32)|Float(?:16|32|64)|Big(?:Int|Uint)64|Uint8Clamped)Array$/;
const WRITING_METHODS: ReadonlySet<string> = new Set(['fill', 'set', 'copyWithin', 'sort', 'reverse']);

/** The number of arguments of each operation that yields. */
export const ATOMICS: ReadonlyMap<string, number> = new Map([
  ['load', 2],
  ['store', 3],
  ['add', 3],
  ['sub', 3],
  ['and', 3],
  ['or', 3],
  ['xor', 3],
  ['exchange', 3],
  ['compareExchange', 4],
  ['notify', 3],
  ['wait', 4],
]);

/** The operator of each compound assignment. */
const COMPOUND: ReadonlyMap<ts.SyntaxKind, ts.BinaryOperator> = new Map<ts.SyntaxKind, ts.BinaryOperator>([
  [ts.SyntaxKind.PlusEqualsToken, ts.SyntaxKind.PlusToken],
  [ts.SyntaxKind.MinusEqualsToken, ts.SyntaxKind.MinusToken],
  [ts.SyntaxKind.AsteriskEqualsToken, ts.SyntaxKind.AsteriskToken],
  [ts.SyntaxKind.SlashEqualsToken, ts.SyntaxKind.SlashToken],
  [ts.SyntaxKind.PercentEqualsToken, ts.SyntaxKind.PercentToken],
  [ts.SyntaxKind.AsteriskAsteriskEqualsToken, ts.SyntaxKind.AsteriskAsteriskToken],
  [ts.SyntaxKind.AmpersandEqualsToken, ts.SyntaxKind.AmpersandToken],
  [ts.SyntaxKind.BarEqualsToken, ts.SyntaxKind.BarToken],
  [ts.SyntaxKind.CaretEqualsToken, ts.SyntaxKind.CaretToken],
  [ts.SyntaxKind.LessThanLessThanEqualsToken, ts.SyntaxKind.LessThanLessThanToken],
  [ts.SyntaxKind.GreaterThanGreaterThanEqualsToken, ts.SyntaxKind.GreaterThanGreaterThanToken],
  [ts.SyntaxKind.GreaterThanGreaterThanGreaterThanEqualsToken, ts.SyntaxKind.GreaterThanGreaterThanGreaterThanToken],
]);

/** The access to shared memory that a node performs, if it is one complete access. */
export type Access =
  | { readonly kind: 'atomics'; readonly node: ts.CallExpression; readonly operation: string }
  | {
      readonly kind: 'bulk';
      readonly node: ts.CallExpression;
      readonly receiver: ts.Expression;
      readonly method: string;
    }
  | { readonly kind: 'write'; readonly node: ts.BinaryExpression; readonly target: ts.ElementAccessExpression }
  | {
      readonly kind: 'update';
      readonly node: ts.BinaryExpression;
      readonly target: ts.ElementAccessExpression;
      readonly operator: ts.BinaryOperator;
    }
  | {
      readonly kind: 'step';
      readonly node: ts.PrefixUnaryExpression | ts.PostfixUnaryExpression;
      readonly target: ts.ElementAccessExpression;
      readonly big: boolean;
    }
  | { readonly kind: 'read'; readonly node: ts.ElementAccessExpression }
  | { readonly kind: 'unsupported'; readonly node: ts.Node; readonly why: string };

export function nameOfAccess(access: Access): string {
  if (access.kind === 'atomics') return `Atomics.${access.operation}`;
  return access.kind === 'bulk' ? access.method : access.kind === 'read' ? 'read' : 'write';
}

/** Without parentheses and type-only syntax. */
export function bare(node: ts.Expression): ts.Expression {
  let inner = node;
  while (
    ts.isParenthesizedExpression(inner) ||
    ts.isAsExpression(inner) ||
    ts.isNonNullExpression(inner) ||
    ts.isSatisfiesExpression(inner)
  ) {
    inner = inner.expression;
  }
  return inner;
}

export class SharedAccess {
  readonly #checker: ts.TypeChecker;

  constructor(checker: ts.TypeChecker) {
    this.#checker = checker;
  }

  /** The typed array types of an expression; empty if it is none. */
  #arrayNames(node: ts.Expression): string[] {
    const type = this.#checker.getApparentType(this.#checker.getTypeAtLocation(node));
    const parts = type.isUnion() ? type.types : [type];
    return parts.flatMap((part) => {
      const name = this.#checker.getApparentType(part).getSymbol()?.name ?? '';
      return TYPED_ARRAY.test(name) || name === 'DataView' ? [name] : [];
    });
  }

  isArray(node: ts.Expression): boolean {
    return this.#arrayNames(node).length > 0;
  }

  /** True if the node is the global of this name, and not a local of the same name. */
  #isGlobal(node: ts.Node, name: string): boolean {
    if (!ts.isIdentifier(node) || node.text !== name) return false;
    const declarations = this.#checker.getSymbolAtLocation(node)?.declarations ?? [];
    return (
      declarations.length > 0 && declarations.every((declaration) => declaration.getSourceFile().isDeclarationFile)
    );
  }

  isClock(node: ts.CallExpression): boolean {
    const callee = node.expression;
    if (!ts.isPropertyAccessExpression(callee) || callee.name.text !== 'now') return false;
    return this.#isGlobal(callee.expression, 'performance') || this.#isGlobal(callee.expression, 'Date');
  }

  makesBuffer(node: ts.NewExpression): boolean {
    return this.#isGlobal(node.expression, 'SharedArrayBuffer') || this.#isGlobal(node.expression, 'ArrayBuffer');
  }

  /** The element of a typed array that an expression names. */
  #element(node: ts.Expression): ts.ElementAccessExpression | null {
    const inner = bare(node);
    return ts.isElementAccessExpression(inner) && this.isArray(inner.expression) ? inner : null;
  }

  of(node: ts.Node): Access | null {
    if (ts.isCallExpression(node)) return this.#ofCall(node);
    if (ts.isBinaryExpression(node)) return this.#ofAssignment(node);
    if (ts.isPrefixUnaryExpression(node) || ts.isPostfixUnaryExpression(node)) {
      const { operator } = node;
      if (operator !== ts.SyntaxKind.PlusPlusToken && operator !== ts.SyntaxKind.MinusMinusToken) return null;
      const target = this.#element(node.operand);
      if (target === null) return null;
      return {
        kind: 'step',
        node,
        target,
        big: this.#arrayNames(target.expression).some((name) => name.startsWith('Big')),
      };
    }
    if (ts.isElementAccessExpression(node) && this.isArray(node.expression)) {
      if (!isTarget(node)) return { kind: 'read', node };
      return { kind: 'unsupported', node, why: 'writes to an element of a typed array by destructuring' };
    }
    return null;
  }

  #ofCall(node: ts.CallExpression): Access | null {
    const callee = node.expression;
    if (!ts.isPropertyAccessExpression(callee)) return null;
    const method = callee.name.text;
    if (this.#isGlobal(callee.expression, 'Atomics')) {
      if (ATOMICS.has(method)) return { kind: 'atomics', node, operation: method };
      return method === 'waitAsync' ? { kind: 'unsupported', node, why: 'Atomics.waitAsync is not simulated' } : null;
    }
    const receiver = callee.expression;
    const names = this.#arrayNames(receiver);
    if (names.length === 0 || this.#isFresh(receiver)) return null;
    const writes = names.includes('DataView') ? method.startsWith('set') : WRITING_METHODS.has(method);
    return writes ? { kind: 'bulk', node, receiver, method } : null;
  }

  /** True for a new array with its own buffer, which no other code can access yet. */
  #isFresh(node: ts.Expression): boolean {
    const inner = bare(node);
    if (!ts.isNewExpression(inner)) return false;
    const [first] = inner.arguments ?? [];
    return first === undefined || (this.#checker.getTypeAtLocation(first).flags & ts.TypeFlags.NumberLike) !== 0;
  }

  #ofAssignment(node: ts.BinaryExpression): Access | null {
    const token = node.operatorToken.kind;
    if (token < ts.SyntaxKind.FirstAssignment || token > ts.SyntaxKind.LastAssignment) return null;
    const target = this.#element(node.left);
    if (target === null) return null;
    if (token === ts.SyntaxKind.EqualsToken) return { kind: 'write', node, target };
    const operator = COMPOUND.get(token);
    if (operator !== undefined) return { kind: 'update', node, target, operator };
    return { kind: 'unsupported', node, why: `assigns with ${node.operatorToken.getText()} to a typed array` };
  }
}

/**
 * True if the element is assigned to by destructuring or by a loop. (Plain assignment is recognized at its own node.)
 */
function isTarget(element: ts.ElementAccessExpression): boolean {
  let node: ts.Node = element;
  for (;;) {
    const { parent } = node;
    if (ts.isForOfStatement(parent) || ts.isForInStatement(parent)) return parent.initializer === node;
    if (ts.isBinaryExpression(parent)) {
      return parent.left === node && node !== element && parent.operatorToken.kind === ts.SyntaxKind.EqualsToken;
    }
    const within =
      ts.isArrayLiteralExpression(parent) ||
      ts.isObjectLiteralExpression(parent) ||
      ts.isSpreadElement(parent) ||
      (ts.isPropertyAssignment(parent) && parent.initializer === node);
    if (!within) return false;
    node = parent;
  }
}

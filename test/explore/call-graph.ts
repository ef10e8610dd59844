/**
 * Computes which functions yield, and which calls reach them.
 *
 * A function yields if it has a yield point or a call that may reach a function that yields. Functions are followed as
 * values too: a *slot* is the declaration of anything that may hold one (a method, a variable, a parameter, a property,
 * a member of an interface). Each flow from slot to slot (arguments, assignments, initializers, implementations) is an
 * edge. The rest is detected at run time: a call of a slot that is not known to yield checks its result.
 */
import ts from 'typescript';
import { type Access, bare, nameOfAccess, type SharedAccess } from './shared-access.ts';

/** A node that can become a generator. */
export type Func = ts.FunctionDeclaration | ts.MethodDeclaration | ts.ArrowFunction | ts.FunctionExpression;

/** How to treat a call: leave it, `yield*` it, decide by its result, or check that it returned no generator. */
export type CallKind = 'plain' | 'yields' | 'may yield' | 'check';

/** A place that cannot be instrumented, and the reason. */
export interface Refusal {
  readonly node: ts.Node;
  readonly why: string;
}

export interface CallGraphOptions {
  readonly program: ts.Program;
  readonly access: SharedAccess;
  /** Every source file of the project that is loaded. */
  readonly files: readonly ts.SourceFile[];
  readonly instrumented: (file: ts.SourceFile) => boolean;
  /** True: plain reads are yield points too. */
  readonly yieldAtReads: boolean;
}

function isFunc(node: ts.Node): node is Func {
  return (
    ts.isFunctionDeclaration(node) ||
    ts.isMethodDeclaration(node) ||
    ts.isArrowFunction(node) ||
    ts.isFunctionExpression(node)
  );
}

/** The innermost code that contains a node: a function, a static block, an initializer, a module. */
export function contextOf(node: ts.Node): ts.Node {
  let at = node.parent;
  while (
    !ts.isFunctionLike(at) &&
    !ts.isSourceFile(at) &&
    !ts.isClassStaticBlockDeclaration(at) &&
    !(ts.isPropertyDeclaration(at) && at.initializer !== undefined && contains(at.initializer, node))
  ) {
    at = at.parent;
  }
  return at;
}

function contains(outer: ts.Node, inner: ts.Node): boolean {
  return outer.pos <= inner.pos && inner.end <= outer.end;
}

export class CallGraph {
  readonly #options: CallGraphOptions;
  readonly #checker: ts.TypeChecker;
  /** The values that flow into each slot. */
  readonly #sources = new Map<ts.Node, Set<ts.Node>>();
  readonly #calls = new Map<ts.CallExpression, readonly ts.Node[]>();
  readonly #yielding = new Set<ts.Node>();
  readonly #accesses: Access[] = [];
  /** Functions passed to code that is not instrumented. */
  readonly #handedOver = new Map<ts.Expression, readonly ts.Node[]>();
  /** Those of them that yield. */
  readonly #escaping: ReadonlySet<ts.Node>;

  constructor(options: CallGraphOptions) {
    this.#options = options;
    this.#checker = options.program.getTypeChecker();
    for (const file of options.files) this.#collect(file);
    for (const access of this.#accesses) this.#yielding.add(contextOf(access.node));
    this.#spread();
    const handedOver = [...this.#handedOver].filter(([, slots]) => slots.some((slot) => this.#mayYield(slot)));
    this.#escaping = new Set(handedOver.map(([argument]) => argument));
  }

  /** True if the code of this function, accessor, initializer and so on has a yield point. */
  yields(context: ts.Node): boolean {
    return this.#yielding.has(context);
  }

  /** True if it becomes a generator. */
  isGenerator(node: ts.Node): node is Func {
    return this.#yielding.has(node) && this.#canYield(node) === null;
  }

  // ---- collection

  #collect(node: ts.Node): void {
    if (ts.isFunctionLike(node)) this.#collectFunction(node);
    if (ts.isClassLike(node)) this.#collectClass(node);
    if (ts.isCallExpression(node)) this.#collectCall(node);
    if (ts.isNewExpression(node)) this.#collectArguments(node);
    if (this.#options.instrumented(node.getSourceFile())) this.#collectAccess(node);
    if (ts.isVariableDeclaration(node) || ts.isParameter(node) || ts.isPropertyDeclaration(node)) {
      if (node.initializer !== undefined) this.#flow(node.initializer, [node]);
    }
    if (ts.isPropertyAssignment(node)) this.#flow(node.initializer, [node, ...this.#contextual(node)]);
    if (ts.isShorthandPropertyAssignment(node)) {
      const from = this.#checker.getShorthandAssignmentValueSymbol(node)?.declarations ?? [];
      for (const to of [node, ...this.#contextual(node)]) for (const slot of from) this.#edge(slot, to);
    }
    if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.EqualsToken) {
      this.#flow(node.right, this.#slotsOf(node.left));
    }
    ts.forEachChild(node, (child) => {
      this.#collect(child);
    });
  }

  #collectAccess(node: ts.Node): void {
    const access = this.#options.access.of(node);
    if (access === null || access.kind === 'unsupported') return;
    if (access.kind !== 'read' || this.#options.yieldAtReads) this.#accesses.push(access);
  }

  #collectFunction(node: ts.SignatureDeclaration): void {
    for (const slot of this.#declarations(node)) if (slot !== node) this.#edge(node, slot);
    if (ts.isMethodDeclaration(node) && ts.isObjectLiteralExpression(node.parent)) {
      for (const slot of this.#contextual(node)) this.#edge(node, slot);
    }
  }

  /** Members of a class flow to the members that they override or implement. */
  #collectClass(node: ts.ClassLikeDeclaration): void {
    const bases = (node.heritageClauses ?? []).flatMap((clause) => clause.types);
    for (const base of bases) {
      const type = this.#checker.getTypeAtLocation(base);
      for (const member of node.members) {
        if (member.name === undefined || ts.isPrivateIdentifier(member.name)) continue;
        const overridden = this.#checker.getPropertyOfType(type, member.name.getText());
        for (const slot of overridden?.declarations ?? []) this.#edge(member, slot);
      }
    }
  }

  #collectCall(node: ts.CallExpression): void {
    const slots = this.#slotsOf(node.expression);
    const declared = this.#checker.getResolvedSignature(node)?.declaration;
    if (slots.length === 0 && declared !== undefined) slots.push(declared);
    this.#calls.set(node, slots);
    this.#collectArguments(node);
  }

  #collectArguments(node: ts.CallExpression | ts.NewExpression): void {
    const declared = this.#checker.getResolvedSignature(node)?.declaration;
    const ours = declared !== undefined && this.#isOurs(declared);
    const parameters = declared === undefined || ts.isJSDocSignature(declared) ? [] : declared.parameters;
    for (const [at, argument] of (node.arguments ?? []).entries()) {
      const parameter = parameters[Math.min(at, parameters.length - 1)];
      if (ours && parameter !== undefined) {
        // An implementation has its own parameters in place of those of its overload and its interface.
        const callee = ts.isCallExpression(node) ? this.#slotsOf(node.expression) : [];
        this.#flow(argument, [parameter, ...callee.flatMap((slot) => this.#parametersAt(slot, at))]);
      } else {
        const slots = this.#valueSlots(argument);
        if (slots.length > 0) this.#handedOver.set(argument, slots);
      }
    }
  }

  #parametersAt(slot: ts.Node, at: number): ts.Node[] {
    return [...this.#reaching(slot)].flatMap((node) => {
      const parameter = ts.isFunctionLike(node) ? node.parameters[at] : undefined;
      return parameter === undefined ? [] : [parameter];
    });
  }

  #isOurs(node: ts.Node): boolean {
    return this.#options.files.includes(node.getSourceFile());
  }

  // ---- slots

  #edge(from: ts.Node, to: ts.Node): void {
    if (from === to) return;
    const sources = this.#sources.get(to);
    if (sources === undefined) this.#sources.set(to, new Set([from]));
    else sources.add(from);
  }

  #flow(value: ts.Expression, to: readonly ts.Node[]): void {
    for (const from of this.#valueSlots(value)) for (const slot of to) this.#edge(from, slot);
  }

  /** The possible function values of an expression. */
  #valueSlots(value: ts.Expression): ts.Node[] {
    const inner = bare(value);
    if (ts.isArrowFunction(inner) || ts.isFunctionExpression(inner)) return [inner];
    if (ts.isConditionalExpression(inner)) {
      return [...this.#valueSlots(inner.whenTrue), ...this.#valueSlots(inner.whenFalse)];
    }
    if (ts.isBinaryExpression(inner)) return [...this.#valueSlots(inner.left), ...this.#valueSlots(inner.right)];
    if (!ts.isIdentifier(inner) && !ts.isPropertyAccessExpression(inner)) return [];
    const type = this.#checker.getNonNullableType(this.#checker.getTypeAtLocation(inner));
    return this.#checker.getSignaturesOfType(type, ts.SignatureKind.Call).length === 0 ? [] : this.#slotsOf(inner);
  }

  /** The declarations that an expression refers to. */
  #slotsOf(value: ts.Expression): ts.Node[] {
    const inner = bare(value);
    if (ts.isArrowFunction(inner) || ts.isFunctionExpression(inner)) return [inner];
    const name = ts.isPropertyAccessExpression(inner) ? inner.name : inner;
    return this.#declarations(name);
  }

  #declarations(node: ts.Node): ts.Node[] {
    const named = ts.isFunctionLike(node) && node.name !== undefined ? node.name : node;
    let symbol = this.#checker.getSymbolAtLocation(named);
    if (symbol !== undefined && (symbol.flags & ts.SymbolFlags.Alias) !== 0)
      symbol = this.#checker.getAliasedSymbol(symbol);
    return [...(symbol?.declarations ?? [])];
  }

  /** The member of the expected type that a member of an object literal implements. */
  #contextual(node: ts.ObjectLiteralElementLike): ts.Node[] {
    if (!ts.isObjectLiteralExpression(node.parent) || node.name === undefined) return [];
    const type = this.#checker.getContextualType(node.parent);
    if (type === undefined) return [];
    const property = this.#checker.getPropertyOfType(this.#checker.getNonNullableType(type), node.name.getText());
    return [...(property?.declarations ?? [])];
  }

  /** The slot, and everything that flows into it. */
  #reaching(slot: ts.Node): Set<ts.Node> {
    const reached = new Set([slot]);
    for (const node of reached) for (const source of this.#sources.get(node) ?? []) reached.add(source);
    return reached;
  }

  // ---- yielding functions

  #spread(): void {
    // All edges are known only now; parameters of implementations are linked in a second pass.
    for (const call of this.#calls.keys()) this.#collectArguments(call);
    for (let before = -1; before !== this.#yielding.size;) {
      before = this.#yielding.size;
      for (const [call, slots] of this.#calls) {
        if (slots.some((slot) => this.#mayYield(slot))) this.#yielding.add(contextOf(call));
      }
    }
  }

  #mayYield(slot: ts.Node): boolean {
    for (const node of this.#reaching(slot)) if (this.isGenerator(node)) return true;
    return false;
  }

  /** The reason why a context cannot become a generator; null if it can. */
  #canYield(context: ts.Node): string | null {
    if (!this.#options.instrumented(context.getSourceFile())) return 'is in a file that is not instrumented';
    if (ts.isSourceFile(context)) return 'is outside any function';
    if (ts.isConstructorDeclaration(context)) return 'is in a constructor';
    if (ts.isAccessor(context)) return 'is in an accessor';
    if (!isFunc(context)) return 'is in an initializer';
    if (context.asteriskToken !== undefined) return 'is in a generator';
    const isAsync = (ts.getModifiers(context) ?? []).some((modifier) => modifier.kind === ts.SyntaxKind.AsyncKeyword);
    return isAsync ? 'is in an async function' : null;
  }

  kindOf(call: ts.CallExpression): CallKind {
    const slots = this.#calls.get(call) ?? [];
    // External code cannot return a generator of the instrumented code: it receives none.
    if (slots.length > 0 && slots.every((slot) => !this.#isOurs(slot))) return 'plain';
    const reached = [...new Set(slots.flatMap((slot) => [...this.#reaching(slot)]))];
    const bodies = reached.filter((node) => isFunc(node) && node.body !== undefined);
    const generators = bodies.filter((node) => this.isGenerator(node)).length;
    const closed = slots.length > 0 && slots.every(isClosed) && !isOptional(call);
    if (generators === 0) return closed ? 'plain' : 'check';
    return closed && generators === bodies.length ? 'yields' : 'may yield';
  }

  // ---- unsupported places

  refusals(): Refusal[] {
    const refusals: Refusal[] = [];
    const look = (node: ts.Node, what: string): void => {
      const context = contextOf(node);
      const why = this.#canYield(context) ?? (isInParameter(node, context) ? "is in a parameter's default" : null);
      if (why !== null) refusals.push({ node, why: `${what} ${why}` });
    };
    for (const access of this.#accesses) look(access.node, `a yield point (${nameOfAccess(access)})`);
    for (const call of this.#calls.keys()) {
      const kind = this.kindOf(call);
      if (kind !== 'yields' && kind !== 'may yield') continue;
      look(call, 'a call of a function that yields');
      if (continuesChain(call)) refusals.push({ node: call, why: 'a call that yields is inside an optional chain' });
    }
    for (const argument of this.#escaping) {
      refusals.push({ node: argument, why: 'a function that yields is handed to code that is not instrumented' });
    }
    for (const file of this.#options.files) if (this.#options.instrumented(file)) this.#refuse(file, refusals);
    return refusals;
  }

  /** True for a function that yields, at the place where it is passed to code that is not instrumented. */
  escapes(argument: ts.Node): boolean {
    return this.#escaping.has(argument);
  }

  /** Reads of typed arrays that bypass the machine. */
  untracked(): ts.Node[] {
    const found: ts.Node[] = [];
    const look = (node: ts.Node): void => {
      const read = wholeRead(node);
      if (read !== null && this.#options.access.isArray(read)) found.push(node);
      ts.forEachChild(node, look);
    };
    for (const file of this.#options.files) if (this.#options.instrumented(file)) look(file);
    return found;
  }

  #refuse(node: ts.Node, refusals: Refusal[]): void {
    const access = this.#options.access.of(node);
    if (access?.kind === 'unsupported') refusals.push({ node, why: access.why });
    if (ts.isArrowFunction(node) && this.isGenerator(node) && usesSuper(node.body)) {
      refusals.push({ node, why: 'an arrow function that yields uses super' });
    }
    ts.forEachChild(node, (child) => {
      this.#refuse(child, refusals);
    });
  }
}

/** True if only the functions found can be called under this name. */
function isClosed(slot: ts.Node): boolean {
  if (ts.isFunctionDeclaration(slot) || ts.isArrowFunction(slot) || ts.isFunctionExpression(slot)) return true;
  if (ts.isMethodDeclaration(slot)) return ts.isClassLike(slot.parent) && slot.body !== undefined;
  if (!ts.isVariableDeclaration(slot) || slot.initializer === undefined) return false;
  const isConstant = (ts.getCombinedNodeFlags(slot) & ts.NodeFlags.Const) !== 0;
  const value = bare(slot.initializer);
  return isConstant && (ts.isArrowFunction(value) || ts.isFunctionExpression(value));
}

function isOptional(call: ts.CallExpression): boolean {
  return (call.flags & ts.NodeFlags.OptionalChain) !== 0;
}

/** True if an optional chain continues after this call: the call cannot be wrapped. */
export function continuesChain(call: ts.CallExpression): boolean {
  return isOptional(call) && ts.isOptionalChain(call.parent) && call.parent.expression === call;
}

function isInParameter(node: ts.Node, context: ts.Node): boolean {
  return ts.isFunctionLike(context) && context.parameters.some((parameter) => contains(parameter, node));
}

/** The operand of a spread, a loop, a pattern or an optional chain. */
function wholeRead(node: ts.Node): ts.Expression | null {
  if (ts.isSpreadElement(node) || ts.isForOfStatement(node) || ts.isElementAccessChain(node)) return node.expression;
  if (ts.isVariableDeclaration(node) && ts.isArrayBindingPattern(node.name)) return node.initializer ?? null;
  const assigns = ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.EqualsToken;
  return assigns && ts.isArrayLiteralExpression(node.left) ? node.right : null;
}

function usesSuper(node: ts.Node): boolean {
  if (node.kind === ts.SyntaxKind.SuperKeyword) return true;
  if (ts.isFunctionLike(node) && !ts.isArrowFunction(node)) return false;
  return ts.forEachChild(node, (child) => usesSuper(child) || undefined) ?? false;
}

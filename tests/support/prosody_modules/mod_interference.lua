-- What a hostile or careless server does to messages, on command of the test that started it.
--
-- Commands are lines of JSON on standard input, each answered by one line of JSON on standard
-- output: {"do": "rules", "rules": [...]}, {"do": "deliver", "xml": "..."}, {"do": "release"},
-- {"do": "discard"}.
-- A rule works on messages just before they reach their recipient, hence before the
-- recipient's archive, its offline store and its carbons; the sender's copies stay true.
-- The end of standard input means that whoever started the server is gone: it stops.

local json = require "util.json";
local portmanager = require "core.portmanager";
local jid_bare = require "util.jid".bare;
local server = require "net.server";
local st = require "util.stanza";
local xml = require "util.xml";

local DEFAULT_NAMESPACE = "jabber:client";
-- Above every other module, so that all of them see the changed message.
local FIRST = 10000;

local rules, held = {}, {};
-- True while our own copies are on their way: no rule applies to them.
local passing = false;

local function without_default_namespace(element)
	if element.attr.xmlns == DEFAULT_NAMESPACE then element.attr.xmlns = nil; end
	for _, child in ipairs(element.tags) do without_default_namespace(child); end
	return element;
end

local function parse(text)
	local element, problem = xml.parse(text);
	if not element then error("not well-formed: "..tostring(problem), 0); end
	return without_default_namespace(element);
end

local function pass(stanza)
	passing = true;
	local fine, problem = pcall(prosody.core_post_stanza, prosody.hosts[module.host], stanza);
	passing = false;
	if not fine then error(problem, 0); end
end

-- Whether an element has a name in Clark's notation; "{}name" has no namespace.
local function is_named(element, name)
	return "{"..(element.attr.xmlns or "").."}"..element.name == name;
end

local function has_child(stanza, name)
	for _, child in ipairs(stanza.tags) do
		if is_named(child, name) then return true; end
	end
	return false;
end

local function matches(rule, stanza)
	local sender, recipient = stanza.attr.from, stanza.attr.to or stanza.attr.from;
	return rule.times ~= 0
		and (not rule.sender or rule.sender == jid_bare(sender))
		and (not rule.recipient or rule.recipient == jid_bare(recipient))
		and (not rule.having or has_child(stanza, rule.having));
end

local function substituted(stanza, pairs_of_text)
	local text = tostring(stanza);
	for _, pair in ipairs(pairs_of_text) do
		local old, new = pair[1], pair[2];
		text = text:gsub(old:gsub("%p", "%%%0"), (new:gsub("%%", "%%%%")));
	end
	return parse(text);
end

local function changed(rule, original)
	local stanza = st.clone(original);
	-- What somebody sends to the own account comes without an address.
	stanza.attr.to = stanza.attr.to or jid_bare(stanza.attr.from);
	if rule.remove then
		stanza:maptags(function (child)
			for _, name in ipairs(rule.remove) do
				if is_named(child, name) then return nil; end
			end
			return child;
		end);
	end
	for _, text in ipairs(rule.add or {}) do stanza:add_direct_child(parse(text)); end
	if rule.substitute then stanza = substituted(stanza, rule.substitute); end
	if rule.claimed_sender then stanza.attr.from = rule.claimed_sender; end
	return stanza;
end

local function interfere(event)
	if passing then return; end
	for _, rule in ipairs(rules) do
		if matches(rule, event.stanza) then
			if rule.times then rule.times = rule.times - 1; end
			if rule.drop then return true; end
			local stanza = changed(rule, event.stanza);
			if rule.hold then
				table.insert(held, stanza);
				return true;
			end
			event.stanza = stanza;
			for _ = 1, rule.copies or 0 do pass(st.clone(stanza)); end
		end
	end
end

module:hook("message/bare", interfere, FIRST);
module:hook("message/full", interfere, FIRST);

local commands = {};

function commands.rules(command)
	rules = command.rules;
	return 0;
end

function commands.deliver(command)
	pass(parse(command.xml));
	return 1;
end

function commands.release(command)
	local waiting = held;
	held = {};
	if command.reversed then
		for i = #waiting, 1, -1 do pass(waiting[i]); end
	else
		for i = 1, #waiting do pass(waiting[i]); end
	end
	return #waiting;
end

function commands.discard()
	local count = #held;
	held = {};
	return count;
end

local function say(answer)
	io.stdout:write(json.encode(answer), "\n");
	io.stdout:flush();
end

local function obey(line)
	local command = json.decode(line);
	local fine, result = pcall(function () return commands[command["do"]](command); end);
	say(fine and { count = result } or { error = tostring(result) });
end

local STANDARD_INPUT = 0;

local function listen_to_commands()
	-- Unbuffered: what C had read ahead would never wake the event loop again.
	io.stdin:setvbuf("no");
	server.watchfd(STANDARD_INPUT, function (input)
		local line = io.stdin:read("l");
		if line then
			prosody.main_thread:run(function () obey(line); end);
			return;
		end
		input:close();
		prosody.main_thread:run(function () prosody.shutdown("Standard input has ended"); end);
	end);
end

module:hook_global("server-started", function ()
	listen_to_commands();
	local port = module:get_option_number("interference_port");
	local service = portmanager.get_service_at("127.0.0.1", port);
	say({ listening = service ~= nil });
end);
